#!/usr/bin/env bash
# Everything this machine can test, the cheap first: lint and types, units and simulation, then (as root, with a
# container engine) real parts, then the main job on a three-machine cluster. Cleans up also when something fails.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
engine_pid=""
export PYTHONUNBUFFERED=1

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

cleanup() {
    status=$?
    trap - EXIT INT TERM
    if [ "$(id -u)" = 0 ] && [ "${SK8_E2E_REUSE:-}" != 1 ]; then
        "$bin/sk8" down >/dev/null 2>&1 || true
    fi
    if [ -n "$engine_pid" ]; then
        kill "$engine_pid" 2>/dev/null || true
        wait "$engine_pid" 2>/dev/null || true
    fi
    exit "$status"
}
trap cleanup EXIT INT TERM

say "style, types, import rules"
make --no-print-directory lint

if [ "$(id -u)" != 0 ]; then
    say "unit tests and simulation (no root here: integration and end-to-end tests are left out)"
    exec "$bin/pytest" -q tests/unit tests/sim
fi

if ! docker info >/dev/null 2>&1; then
    say "no container engine answers: starting one for the tests"
    mkdir -p build
    dockerd >build/dockerd.log 2>&1 &
    engine_pid=$!
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && break
        kill -0 "$engine_pid" 2>/dev/null || { tail -5 build/dockerd.log; echo "dockerd did not start"; exit 1; }
        sleep 0.5
    done
fi

say "images from Debian packages"
infra/images/pause/build.sh
python3 infra/images/build.py

say "all tests"
"$bin/pytest" -q --durations=15 tests/unit tests/sim tests/integration tests/chaos tests/e2e
