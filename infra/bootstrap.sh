#!/usr/bin/env bash
# Installs what sk8 needs and is missing, on Debian 12 or a relative: Debian packages (as root), a kubectl that is new
# enough, uv, and the Python packages of requirements.lock, by hash, into .venv. Says what it installs; does nothing,
# in a quarter of a second, when nothing is missing. `--tests` also installs what only the tests call; `--vm` leaves out
# what only local machines and their users need.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

begin=$SECONDS
work=""
ticker=""
say() { printf '  %s\n' "$*"; }
fail() {
    stop_ticker
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  try: %s\n' "$2" >&2
    exit 1
}

# On a terminal, the seconds count while something long runs. The command stays in the foreground, for Ctrl-C.
start_ticker() {
    [ -t 2 ] || return 0
    (
        n=0
        while sleep 1; do
            n=$((n + 1))
            printf '\r  ... %s s ' "$n" >&2
        done
    ) &
    ticker=$!
}
stop_ticker() {
    [ -n "$ticker" ] || return 0
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    ticker=""
    printf '\r\033[K' >&2
}
clean_up() {
    stop_ticker
    [ -z "$work" ] || rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

[ "$(uname -s)" = Linux ] || fail "sk8 needs Linux, and this is $(uname -s)" "a Debian 12 machine or virtual machine"

# -- what is missing -----------------------------------------------------------------------------------------------------
# command or file that shows that it is there -> package
needs=(
    "dockerd docker.io" "containerd containerd" "runc runc" "nft nftables" "ip iproute2" "conntrack conntrack"
    "mmdebstrap mmdebstrap" "busybox busybox-static" "mkfs.ext4 e2fsprogs" "nsenter util-linux" "losetup mount" "curl curl"
    "/etc/ssl/certs/ca-certificates.crt ca-certificates"
)
[ "${1:-}" != --vm ] || needs+=("sudo sudo")
[ "${1:-}" != --tests ] || needs+=("git git" "ps procps" "ping iputils-ping" "ssh openssh-client" "rsync rsync" "docker-registry docker-registry" "/usr/lib/cni/bridge containernetworking-plugins" "bird bird2" "chromium chromium" "fish fish" "node nodejs" "npm npm")
missing=()
for need in "${needs[@]}"; do
    read -r proof package <<<"$need"
    if [ "${proof#/}" != "$proof" ]; then [ -e "$proof" ] || missing+=("$package"); continue; fi
    command -v "$proof" >/dev/null 2>&1 || missing+=("$package")
done
# no pipe into grep -q: with pipefail, ldconfig's SIGPIPE would read as "not there"
[[ "$(ldconfig -p)" == *libnftables.so.1* ]] || missing+=(libnftables1)

right_python() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
python=""
find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3; do
        candidate=$(command -v "$candidate" 2>/dev/null) || continue
        right_python "$candidate" || continue
        python=$candidate
        return 0
    done
    return 1
}
if find_python; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
else
    missing+=(python3 python3-venv)
fi

# Debian 12's kubectl is 1.20: it works, but lacks commands and flags that the tests and the documentation use. What they
# are made with is Debian 13's.
kubectl_minor() {
    local said
    said=$(kubectl version --client -o json 2>/dev/null) || return 0
    [[ "$said" =~ \"minor\":\ *\"([0-9]+) ]] && printf '%s' "${BASH_REMATCH[1]}"
}
kubectl_of_debian() { dpkg-query -S "$(command -v kubectl)" 2>/dev/null | grep -q '^kube'; }
want_kubectl=""
if [ "${1:-}" = --vm ]; then
    :
elif ! command -v kubectl >/dev/null 2>&1; then
    want_kubectl=install
else
    minor=$(kubectl_minor)
    if [ "${minor:-0}" -lt 31 ]; then
        if kubectl_of_debian; then
            want_kubectl=renew
        else
            say "note: $(command -v kubectl) is 1.${minor:-?}; it lacks commands and flags of 1.31 and newer (it is left alone)"
        fi
    fi
fi

# -- Debian packages -----------------------------------------------------------------------------------------------------
apt() { # apt LOG ARGUMENTS...: waits up to five minutes for another apt's lock
    local log=$1 code=0
    shift
    start_ticker
    DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 || code=$?
    stop_ticker
    return $code
}
why() { grep -m1 '^E:' "$1" || grep -m1 '^W:' "$1" || tail -1 "$1"; }

# apt-get itself calls it a warning when it falls back to old lists
refresh() { # refresh LOG OPTIONS...
    apt "$@" update && ! grep -q '^\(E:\|W: Failed to fetch\)' "$1" && return
    if grep -q 'Could not get lock' "$1"; then fail "another apt is at work: $(why "$1")" "again in a few minutes"; fi
    fail "cannot reach the Debian mirrors: $(why "$1")" \
        "check the network, the proxy (http_proxy) and /etc/apt/sources.list*"
}

# From Debian 13, which keeps it as a package of its own that needs nothing but libc6; apt checks the signatures.
# The machine's own sources are not changed.
debian_mirror() {
    local codename
    codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-none}")
    apt-get indextargets --format '$(REPO_URI)' "Codename: $codename" 'Label: Debian' 'Component: main' \
        'Created-By: Packages' 2>/dev/null | sed -n 1p
}
install_kubectl() {
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    local manual="install kubectl 1.31 or newer: https://kubernetes.io/docs/tasks/tools/"
    mirror=$(debian_mirror)
    if [ -z "$mirror" ]; then # apt was never updated here
        refresh "$work/log"
        mirror=$(debian_mirror)
    fi
    [ -n "$mirror" ] && [ -e "$keyring" ] || fail "there is no kubectl here, and no Debian mirror to take it from" "$manual"
    say "installing kubectl from Debian 13 (Debian 12 has 1.20, which lacks much)"
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/none"
    printf 'deb [signed-by=%s] %s trixie main\n' "$keyring" "$mirror" >"$work/apt/sources.list"
    local options=(
        -o "Dir::Etc::SourceList=$work/apt/sources.list" -o "Dir::Etc::SourceParts=$work/apt/none"
        -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root
        -o Acquire::Languages=none
    )
    refresh "$work/log" "${options[@]}"
    (cd "$work" && apt "$work/log" "${options[@]}" download kubectl) || fail "cannot fetch kubectl: $(why "$work/log")" "$manual"
    # the empty transitional package of Debian 12's name, when it is there, is replaced
    dpkg-query -W kubernetes-client >/dev/null 2>&1 && apt "$work/log" remove -y kubernetes-client
    apt "$work/log" install -y --no-install-recommends "$work"/kubectl_*.deb ||
        fail "apt-get could not install kubectl: $(why "$work/log")" "$manual"
}

if [ ${#missing[@]} -gt 0 ] || [ -n "$want_kubectl" ]; then
    list="${missing[*]}${want_kubectl:+ kubectl}"
    list=${list# }
    [ "$(id -u)" = 0 ] || fail "packages are missing: $list" "run it as root: sudo infra/bootstrap.sh"
    command -v apt-get >/dev/null 2>&1 || fail "packages are missing and there is no apt-get: $list" \
        "install them with this system's package manager"
    work=$(mktemp -d)
fi
if [ ${#missing[@]} -gt 0 ]; then
    say "installing Debian packages: ${missing[*]}"
    refresh "$work/log"
    apt "$work/log" install -y --no-install-recommends "${missing[@]}" ||
        fail "apt-get could not install them: $(why "$work/log")" "apt-get install ${missing[*]}, to see all of it"
    find_python || fail "no Python 3.11 to 3.13 is on the PATH" "install one; Debian 12 has python3 (3.11)"
fi
[ -z "$want_kubectl" ] || install_kubectl
[ -z "$work" ] || say "installed Debian packages in $((SECONDS - begin)) s"

# -- the JavaScript client, which tests run, by its lock file --------------------------------------------------------------
node_client() {
    local from=tests/support/node_client to=build/node-client want
    want=$(cat "$from/package-lock.json" | sha256sum | cut -d' ' -f1)
    [ "$(cat "$to/.stamp" 2>/dev/null || true)" != "$want" ] || return 0
    say "installing Kubernetes' JavaScript client for the tests"
    rm -rf "$to"
    mkdir -p "$to"
    cp "$from/package.json" "$from/package-lock.json" "$to/"
    (cd "$to" && npm ci -s --ignore-scripts --no-audit --no-fund) ||
        fail "cannot install the JavaScript client" "check the network and the package registry that npm is configured to use"
    printf '%s' "$want" >"$to/.stamp"
}
[ "${1:-}" != --tests ] || node_client

# -- uv ------------------------------------------------------------------------------------------------------------------
index="check the network and the package index that pip and uv are configured to use"
stamp=.venv/.requirements.sha256
want=$(cat requirements.lock pyproject.toml <(pwd) | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/sk8 ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ] && right_python .venv/bin/python; then
    exit 0
fi
uv=$(command -v uv 2>/dev/null || true)
if [ -n "$uv" ] && ! "$uv" --version >/dev/null 2>&1; then uv=""; fi # a shim without a uv behind it
if [ -z "$uv" ]; then
    uv=build/tools/bin/uv
    if ! "$uv" --version >/dev/null 2>&1; then
        say "installing uv into build/tools"
        rm -rf build/tools
        "$python" -m venv build/tools
        start_ticker
        build/tools/bin/pip install -q --retries 1 --disable-pip-version-check uv ||
            fail "cannot install uv from the Python package index" "$index"
        stop_ticker
    fi
fi

# -- Python packages -----------------------------------------------------------------------------------------------------
if ! right_python .venv/bin/python; then
    rm -rf .venv # none, or of a Python that is gone or too old
    say "making .venv with $("$python" --version)"
    "$uv" venv -q --no-python-downloads --python "$python" .venv
fi
say "installing $(grep -c '^[a-z0-9].*==' requirements.lock) Python packages from requirements.lock, checked by hash"
start_ticker
"$uv" pip sync -q --python .venv/bin/python --require-hashes requirements.lock ||
    fail "the Python packages could not be installed" "$index"
"$uv" pip install -q --python .venv/bin/python --no-deps -e . || fail "sk8 itself could not be installed" "$index"
stop_ticker
printf '%s' "$want" >"$stamp"
say "ready after $((SECONDS - begin)) s"
