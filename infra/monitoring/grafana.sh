#!/usr/bin/env bash
# The dashboards, where a Grafana finds them: always as ConfigMaps that the sidecar of Grafana's chart and of
# kube-prometheus look for (label grafana_dashboard), and as files where Grafana itself is installed on this box.
set -euo pipefail
cd "$(dirname "$0")"

for file in dashboards/*.json; do
    name=$(basename "$file" .json)
    kubectl create configmap "sk8-dashboard-$name" -n monitoring --from-file="$file" --dry-run=client -o yaml |
        kubectl label -f - --local --dry-run=client -o yaml grafana_dashboard=1 | kubectl apply -f -
done

target=${GRAFANA_PROVISIONING:-/etc/grafana/provisioning}
if [ ! -d "$target" ]; then
    echo "No Grafana on this box ($target is missing): import infra/monitoring/dashboards/*.json into yours"
    exit 0
fi
install -d "$target/dashboards" "$target/datasources" "$target/dashboards/sk8"
install -m 644 dashboards/*.json "$target/dashboards/sk8/"
cat >"$target/dashboards/sk8.yaml" <<YAML
apiVersion: 1
providers:
- name: sk8
  folder: sk8
  type: file
  options: {path: $target/dashboards/sk8}
YAML
cat >"$target/datasources/sk8.yaml" <<YAML
apiVersion: 1
datasources:
- name: sk8
  type: prometheus
  access: proxy
  url: ${PROMETHEUS_URL:-http://127.0.0.1:9090}
YAML
echo "Grafana: restart it (systemctl restart grafana-server), with kubectl port-forward -n monitoring svc/prometheus 9090 beside it"
