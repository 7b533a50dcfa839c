#!/usr/bin/env bash
# Everything this machine can test, the cheap first: lint and types, units and simulation, then (as root, with a
# container engine) real parts, then the main job on a three-machine cluster. Cleans up also when something fails.
# Tests marked slow are left out (make test-slow).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
engine_pid=""
engine_dir=""
engine_run=""
made_images=""
cluster_is_ours=""
export PYTHONUNBUFFERED=1
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

cleanup() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$cluster_is_ours" ]; then "$bin/sk8" down >/dev/null 2>&1 || true; fi
    if [ -n "$engine_pid" ]; then
        stop_engine
    elif [ -n "$made_images" ]; then
        python3 infra/images/build.py --remove >/dev/null 2>&1 || true
        docker rmi "$made_images" >/dev/null 2>&1 || true
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# An engine for the tests alone, with data of its own (its run directory is the usual one: pods' network namespaces are
# looked for there): no bridge and no packet filter rules (so neither iptables nor a kernel with its modules is needed;
# a docker0 that a stopped engine left is removed by this, and made anew when that engine starts), and containers that
# live on while it is restarted.
start_engine() {
    engine_dir=$(mktemp -d /var/lib/dockerd-of-the-tests.XXXXXX)
    [ -e /run/docker ] || engine_run=/run/docker
    dockerd --data-root="$engine_dir/data" --pidfile="$engine_dir/pid" \
        --host=unix:///var/run/docker.sock --live-restore --bridge=none --iptables=false --ip6tables=false \
        --ip-forward=false >"$engine_dir/log" 2>&1 &
    engine_pid=$!
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && return
        kill -0 "$engine_pid" 2>/dev/null || break
        sleep 0.5
    done
    tail -5 "$engine_dir/log"
    echo "error: dockerd did not start"
    echo "  try: start a container engine by hand (systemctl start docker), then make test"
    exit 1
}
stop_engine() {
    docker ps -aq 2>/dev/null | xargs -r docker rm -f >/dev/null 2>&1 || true # all of this engine's are the tests'
    engine_pid=$(cat "$engine_dir/pid" 2>/dev/null || echo "$engine_pid") # a test restarts it
    kill "$engine_pid" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$engine_pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -9 "$engine_pid" 2>/dev/null || true
    wait "$engine_pid" 2>/dev/null || true
    for dir in "$engine_dir" $engine_run; do
        awk -v d="$dir/" 'index($5, d) == 1 {print $5}' /proc/self/mountinfo | sort -r | xargs -r -n1 umount || true
        rm -rf --one-file-system "$dir"
    done
}

if [ "$(id -u)" = 0 ]; then infra/bootstrap.sh --tests; fi

say "style, types, import rules"
make --no-print-directory lint

if [ "$(id -u)" != 0 ]; then
    say "unit tests and simulation (no root here: integration and end-to-end tests are left out)"
    "$bin/pytest" -q tests/unit tests/fuzz tests/sim tests/safety tests/chaos
    exit
fi

# the tests make the cluster and remove it, with its data
if [ "${SK8_E2E_REUSE:-}" != 1 ]; then
    if [ -e /var/lib/sk8/cluster.json ]; then
        echo "error: there is a cluster on this machine (/var/lib/sk8), and the tests make one of their own"
        echo "  try: make down, which removes it and its data; or SK8_E2E_REUSE=1 make test, which tests on it"
        exit 1
    fi
    cluster_is_ours=1
fi

if ! docker info >/dev/null 2>&1; then
    say "no container engine answers: starting one for the tests"
    start_engine
fi

say "images from Debian packages"
docker image inspect sk8/pause:1 >/dev/null 2>&1 || made_images=sk8/pause:1
infra/images/pause/build.sh
python3 infra/images/build.py

say "unit tests, fuzzing, simulation"
"$bin/pytest" -q -n 2 --durations=15 tests/unit tests/fuzz tests/sim tests/safety

# A dozen failures are one cause (an engine that hangs, a cluster that is gone): the rest would only wait for it.
say "real parts, and a cluster"
"$bin/pytest" -q -m "not slow" --durations=40 --maxfail=12 tests/integration tests/chaos tests/e2e
