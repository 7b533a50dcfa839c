#!/usr/bin/env bash
# The other way round: takes this machine out of the cluster and removes what setup.sh and `ray up` put on it. Debian
# packages stay, as they may be another's by now. As root; idempotent. `ray down` runs it on machines that are not
# deleted with the cluster (infra/ray/onprem.yaml).
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "error: this needs root: sudo $0" >&2; exit 1; }
home=$(getent passwd "${SUDO_USER:-root}" | cut -d: -f6)

[ ! -x /opt/sk8/.venv/bin/sk8 ] || env -C / PYTHONPATH=/opt/sk8 /opt/sk8/.venv/bin/sk8 reset
[ ! -x /opt/sk8/infra/ray/links.sh ] || /opt/sk8/infra/ray/links.sh remove /usr/local/bin
rm -f /etc/systemd/system/sk8-machine.service /etc/systemd/system/sk8-autoscaler@.service
if [ -e /etc/docker/.sk8 ]; then
    docker image rm -f sk8/pause:1 >/dev/null 2>&1 || true
    rm -f /etc/docker/.sk8 /etc/docker/daemon.json
    [ ! -d /run/systemd/system ] || systemctl -q try-restart docker
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload
rm -rf /var/log/sk8 /tmp/ray /root/ray_bootstrap_key.pem "$home/sk8" "$home/ray_bootstrap_config.yaml" "$home/ray_bootstrap_key.pem" "$home"/sk8-join.json "$home/.sk8"
cd /
rm -rf /opt/sk8
