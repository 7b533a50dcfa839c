# sk8: `make up` and `make test` are all a new user needs. Targets that start machines need root.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
PYTEST := $(BIN)/pytest
UV = $(or $(shell command -v uv),build/tools/bin/uv)
SEEDS ?= 300
MINUTES ?= 10
FAULTS ?= 30
EACH ?= 0
RATE ?= 50
MOST ?= 60

.PHONY: help up down demo monitoring test test-slow check bench fmt bootstrap lint unit sim fuzz walkthrough scenarios autoscaler-test scheduler-cases ray-up-test server-07 leaks safety chaos chaos-long chaos-store integration e2e lock audit

help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

bootstrap: ## Install what is missing: Debian packages, uv, Python packages from requirements.lock
	@infra/bootstrap.sh

up: bootstrap ## Start a three-machine cluster on this box and deploy the demo
	@$(BIN)/sk8 up
	@python3 infra/images/build.py
	@python3 infra/demo.py

demo: ## Deploy the demo on the running cluster
	@python3 infra/images/build.py
	@python3 infra/demo.py

monitoring: ## Prometheus on the running cluster, with rules, alerts and dashboards (docs/monitoring.md)
	@python3 infra/images/build.py prom/prometheus:v2.42.0 mycompany/api:v1.2.3
	@kubectl apply -f infra/monitoring/prometheus.yaml
	@for map in rules:rules.yaml discovery:discover.py; do kubectl create configmap prometheus-$${map%:*} -n monitoring --from-file=infra/monitoring/$${map#*:} --dry-run=client -o yaml | kubectl apply -f -; done
	@infra/monitoring/grafana.sh
	@kubectl rollout status deployment/prometheus -n monitoring --timeout=120s
	@echo "Now: kubectl port-forward -n monitoring svc/prometheus 9090, then http://127.0.0.1:9090/alerts"

down: ## Remove the cluster and everything sk8 made
	@if [ -x $(BIN)/sk8 ]; then $(BIN)/sk8 down; python3 infra/images/build.py --remove; else echo "nothing to do: sk8 is not installed here (.venv is missing)"; fi

test: bootstrap ## Run everything this machine can run (what CI runs)
	@infra/test.sh

test-slow: bootstrap ## The tests marked slow, minutes each, on a three-machine cluster of their own (root)
	@[ ! -e /var/lib/sk8/cluster.json ] || [ "$${SK8_E2E_REUSE:-}" = 1 ] || { echo "error: there is a cluster on this machine, and these tests make and remove one"; echo "  try: make down first, or SK8_E2E_REUSE=1 make test-slow"; exit 1; }
	@$(PYTEST) -q -m slow tests/integration tests/e2e

check: ## The fast loop: lint, types, import rules, unit tests (no root, no containers)
	@$(MAKE) --no-print-directory lint
	@$(PYTEST) -q -n 2 tests/unit

lint: ## Style, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

unit: ## Unit tests
	@$(PYTEST) -q -n 2 tests/unit

sim: ## Seeded simulation of the store and of whole clusters; more with SEEDS=10000
	@SK8_SIM_SEEDS=$(SEEDS) $(PYTEST) -q tests/sim

fuzz: ## Fuzz what the store reads from the wire and from its log, following coverage; more with SECONDS=600
	@for target in frames segments records; do $(BIN)/python tests/fuzz/fuzz.py $$target build/fuzz/$$target -max_total_time=$(or $(SECONDS),60) -max_len=4096 -artifact_prefix=build/fuzz/$$target- -print_final_stats=1; done

safety: ## The store's two engines side by side: which of them keeps which rule
	@$(BIN)/python tests/safety/safety_table.py 2>/dev/null

chaos-store: ## Kill, freeze, cut off and starve a real store while clients record; MINUTES=10 (root)
	@SK8_CHAOS_MINUTES=$(MINUTES) $(PYTEST) -q -s tests/chaos/test_store_chaos.py

walkthrough: ## The reference's section 5 on the running cluster: a timeline, and its table with what was measured (root)
	@python3 infra/images/build.py mycompany/api:v1.2.3 postgres:14
	@python3 infra/walkthrough.py

scenarios: ## The reference's scenario A in its own times, pod-eviction-timeout 5m and 1m, on clusters of their own (root)
	@for timeout in 300 60; do \
	  printf 'profile: kubernetes\ncontrollers: {node-monitor-grace-period: 40s, pod-eviction-timeout: %ss}\n' $$timeout > build/scenario-a.yaml; \
	  $(BIN)/sk8 up --control-planes 1 --config build/scenario-a.yaml; python3 infra/images/build.py busybox:1.36; \
	  $(BIN)/python infra/scenario_a.py --grace 40 --eviction $$timeout --within 2 && code=0 || code=$$?; \
	  $(BIN)/sk8 down; rm build/scenario-a.yaml; [ $$code = 0 ] || exit $$code; \
	done

autoscaler-test: ## Pending pods become nodes of Ray's own AutoscalingCluster, and an idle one goes (root, 1 min on a quiet box)
	@SK8_RAY_AUTOSCALER=1 $(PYTEST) -q -s tests/integration/test_ray_autoscaler.py

chaos: ## A cluster of its own under faults of every kind, judged; FAULTS=30 EACH=0 RATE=50 MOST=60 (minutes) (root)
	@$(BIN)/sk8 up
	@python3 infra/images/build.py
	@python3 infra/demo.py
	@$(BIN)/sk8 chaos run soup --faults $(FAULTS) --each $(EACH) --minutes $(MOST) --writes-per-s $(RATE) --requests-per-s $(RATE) --report build/chaos && code=0 || code=$$?; $(BIN)/sk8 down; exit $$code

chaos-long: ## The long run: 200 faults and more, 10 of each kind, 200 writes and 200 requests a second; hours (root)
	@$(MAKE) --no-print-directory chaos FAULTS=200 EACH=10 RATE=200 MOST=240

integration: ## Real processes, disks, containers and network namespaces (root)
	@$(PYTEST) -q tests/integration

e2e: ## The README's promises on a running three-machine cluster (root)
	@$(PYTEST) -q tests/e2e

ray-up-test: bootstrap ## `ray up` over SSH to machines with systemd on this box, and `ray down` (root, minutes)
	RAY_UP=1 .venv/bin/pytest -q tests/integration/test_ray_up_onprem.py

scheduler-cases: ## The scheduler against its oracles on many generated clusters; more with SEEDS=10000
	@$(BIN)/python -m tests.unit.scheduler.sweep $(or $(SEEDS),3000)

server-07: bootstrap ## Fill a machine's disk on a cluster of its own and time its evacuation (root)
	@[ ! -e /var/lib/sk8/cluster.json ] || [ "$${SK8_E2E_REUSE:-}" = 1 ] || { echo "error: there is a cluster on this machine, and this test makes and removes one"; echo "  try: make down first, or SK8_E2E_REUSE=1 make server-07"; exit 1; }
	@SK8_E2E_DEMO=no $(PYTEST) -q -s -m slow tests/e2e/test_server_07.py

leaks: ## Make and delete many pods on a kubelet and count what is left; PODS=1000 (root)
	@SK8_LEAK_PODS=$(or $(PODS),1000) $(PYTEST) -q -s tests/integration/test_node_leaks.py

bench: ## Run every benchmark and draw the plots
	@$(BIN)/python -m benchmarks

fmt: ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## Renew requirements.lock from pyproject.toml
	@$(UV) export -q --no-emit-project --all-groups --all-extras --no-annotate --no-header --format requirements-txt > requirements.lock
	@rm -f uv.lock

audit: ## Known vulnerabilities of what requirements.lock pins, by pip-audit; fails if any package cannot be looked up
	@$(UV) tool run --from pip-audit pip-audit -r requirements.lock --require-hashes --disable-pip --strict --progress-spinner off
