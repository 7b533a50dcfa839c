#!/usr/bin/env bash
# Makes a bare Debian 12 machine fit for sk8: the checkout that `ray up` carried here goes to /opt/sk8 with its Debian and
# Python packages, the container engine is set up for pods, the systemd units are installed. As root; says what it does;
# does nothing that is done already. `ray up` runs it on each machine; nothing is started before `sk8 init` or `sk8 join`.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
source=$(cd "$(dirname "$0")/../.." && pwd)
root=/opt/sk8
say() { printf '  %s\n' "$*"; }

[ "$(id -u)" = 0 ] || { echo "error: this needs root: sudo $0" >&2; exit 1; }
command -v rsync >/dev/null || { apt-get -q update && apt-get -q install -y --no-install-recommends rsync; } >/dev/null

# -- the code --------------------------------------------------------------------------------------------------------
mkdir -p "$root"
changed=$(rsync -a --delete --itemize-changes --exclude .git --exclude .venv --exclude build --exclude __pycache__ \
    --exclude '*.egg-info' --exclude '.*_cache' --chown root:root "$source/" "$root/" | head -1)
[ -z "$changed" ] || say "the code in $root is new"

# -- the container engine --------------------------------------------------------------------------------------------
# Before its package starts it: pods get their network from the kubelet, and the engine's own rules would drop what is
# forwarded to them; containers live on when it restarts.
if [ ! -e /etc/docker/daemon.json ]; then
    mkdir -p /etc/docker
    printf '{"live-restore": true, "bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false}\n' \
        >/etc/docker/daemon.json
    touch /etc/docker/.sk8
    if [ -d /run/systemd/system ] && systemctl -q is-active docker; then systemctl restart docker; fi
fi
"$root/infra/bootstrap.sh" --vm

# -- the units, and what `ray exec`, `attach` and `submit` find ------------------------------------------------------
for unit in "$root"/infra/systemd/*.service; do install -m 644 "$unit" /etc/systemd/system/; done
"$root/infra/ray/links.sh" add /usr/local/bin
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl -q enable --now docker
    # new code takes effect now; sk8-machine starts after its configuration is there
    [ -z "$changed" ] || systemctl try-restart sk8-machine
fi
say "this machine is ready for sk8 init or sk8 join"
