#!/usr/bin/env bash
# Installs what sk8 needs and is missing, on Debian 12 or a relative: Debian packages (as root), uv, and the Python
# packages of requirements.lock, by hash, into .venv. Says what it installs; does nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

begin=$SECONDS
say() { printf '  %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '  try: %s\n' "$2" >&2
    exit 1
}

[ "$(uname -s)" = Linux ] || fail "sk8 needs Linux, and this is $(uname -s)" "a Debian 12 machine or virtual machine"

# -- Debian packages ---------------------------------------------------------------------------------------------------
# command or file that shows that it is there -> package
needs=(
    "dockerd docker.io" "containerd containerd" "runc runc" "nft nftables" "ip iproute2" "conntrack conntrack"
    "mmdebstrap mmdebstrap" "mkfs.ext4 e2fsprogs" "unshare util-linux" "losetup mount" "kubectl kubernetes-client"
    "python3 python3" "/etc/ssl/certs/ca-certificates.crt ca-certificates"
)
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
missing=()
for need in "${needs[@]}"; do
    read -r proof package <<<"$need"
    if [ "${proof#/}" != "$proof" ]; then [ -e "$proof" ] || missing+=("$package"); continue; fi
    command -v "$proof" >/dev/null 2>&1 || missing+=("$package")
done
# no pipe into grep -q: with pipefail, ldconfig's SIGPIPE would read as "not there"
[[ "$(ldconfig -p)" == *libnftables.so.1* ]] || missing+=(libnftables1)

python=""
find_python() {
    local candidate
    for candidate in python3.13 python3.12 python3.11 python3; do
        candidate=$(command -v "$candidate" 2>/dev/null) || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            python=$candidate
            return 0
        fi
    done
    return 1
}
if find_python; then
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
else
    missing+=(python3 python3-venv)
fi

if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || fail "packages are missing: ${missing[*]}" "run it as root: sudo infra/bootstrap.sh"
    command -v apt-get >/dev/null 2>&1 || fail "packages are missing and there is no apt-get: ${missing[*]}" \
        "install them with this system's package manager"
    say "installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! apt-get -q update >"$log" 2>&1 || grep -q '^\(E:\|W: Failed to fetch\)' "$log"; then
        fail "cannot reach the Debian mirrors: $(grep -m1 '^[EW]:' "$log" || tail -1 "$log")" \
            "check the network, the proxy (http_proxy) and /etc/apt/sources.list*"
    fi
    apt-get -q install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 ||
        fail "apt-get could not install them: $(grep -m1 '^E:' "$log" || tail -1 "$log")" \
            "apt-get install ${missing[*]}, to see all of it"
    say "installed Debian packages in $((SECONDS - begin)) s"
    find_python || fail "no Python 3.11 to 3.13 is on the PATH" "install one; Debian 12 has python3 (3.11)"
fi

# -- uv ------------------------------------------------------------------------------------------------------------------
uv=$(command -v uv 2>/dev/null || true)
if [ -n "$uv" ] && ! "$uv" --version >/dev/null 2>&1; then uv=""; fi # a shim without a uv behind it
if [ -z "$uv" ]; then
    uv=build/tools/bin/uv
    if [ ! -x "$uv" ]; then
        say "installing uv into build/tools"
        "$python" -m venv build/tools
        build/tools/bin/pip install -q --disable-pip-version-check uv ||
            fail "cannot install uv from the Python package index" "check the network and pip's configuration"
    fi
fi

# -- Python packages -----------------------------------------------------------------------------------------------------
stamp=.venv/.requirements.sha256
want=$(cat requirements.lock pyproject.toml | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/sk8 ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then
    exit 0
fi
if [ ! -x .venv/bin/python ]; then
    say "making .venv with $("$python" --version)"
    "$uv" venv -q --no-python-downloads --python "$python" .venv
fi
say "installing $(grep -c '^[a-z0-9].*==' requirements.lock) Python packages from requirements.lock, checked by hash"
hint="check the network and the index that uv is configured to use"
"$uv" pip sync -q --python .venv/bin/python --require-hashes requirements.lock ||
    fail "the Python packages could not be installed" "$hint"
"$uv" pip install -q --python .venv/bin/python --no-deps -e . || fail "sk8 itself could not be installed" "$hint"
printf '%s' "$want" >"$stamp"
say "ready after $((SECONDS - begin)) s"
