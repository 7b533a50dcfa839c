"""How Ray is started on a machine: its command line and environment.

Pure: data in, data out, but for `python -m cluster.machine.ray_command BASE`, which prints the environment of a VM for
tools that its administrator calls (infra/ray/bin/as-root). The reasons for each setting are in docs/decisions/ray.md,
measured on Ray 2.60.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.machine.config import ClusterConfig, load_cluster
from cluster.machine.machine_config import MachineConfig, load_machine, only_machine

_DAY_S = 86_400

# Ray is not the failure detector (docs/architecture.md, "When a machine loses power"): it must never kill a raylet, and
# with it all actors of a machine, because it did not hear from it for a while.
SETTINGS: Mapping[str, str] = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(_DAY_S),
    "RAY_raylet_liveness_self_check_interval_ms": str(_DAY_S * 1000),  # the keeper decides when to rejoin
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_period_ms": "30000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "20",
    "RAY_worker_niceness": "0",
    "RAY_worker_oom_score_adjustment": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_AUTH_MODE": "token",
}

_KEPT = ("HOME", "LANG", "LC_ALL", "TZ", "KUBECONFIG", "DOCKER_HOST")


def is_head(config: ClusterConfig, machine: MachineConfig) -> bool:
    return machine.name == config.ray_head


def gcs_dir(machine: MachineConfig) -> Path:
    return machine.ray_dir / "gcs"


def environment(
    config: ClusterConfig, machine: MachineConfig, python: Path, checkout: Path | None, inherited: Mapping[str, str]
) -> dict[str, str]:
    """What the raylet, the actors and the ensure command see: nothing of the caller's but what is named here."""
    env = {name: inherited[name] for name in _KEPT if name in inherited}
    env.setdefault("HOME", "/root")
    env.setdefault("LANG", "C.UTF-8")
    env["PATH"] = f"{python.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env["PYTHONUNBUFFERED"] = "1"
    if checkout is not None:
        env["PYTHONPATH"] = str(checkout)
    env.update(SETTINGS)
    env["RAY_AUTH_TOKEN_PATH"] = str(machine.ray_token)
    env["RAY_ADDRESS"] = config.gcs_address
    env["SK8_MACHINE"] = machine.name
    env["SK8_BASE"] = config.base_dir
    if config.provider != "local":
        env |= tls(machine)
    if is_head(config, machine):
        env["RAY_gcs_storage"] = "rocksdb"
        env["RAY_gcs_storage_path"] = str(gcs_dir(machine))
    return env


def tls(machine: MachineConfig) -> dict[str, str]:
    """Between VMs Ray's connections are encrypted and both sides show a node's certificate. Local machines share a
    kernel: the token is enough there."""
    files = {"SERVER_CERT": "node.crt", "SERVER_KEY": "node.key", "CA_CERT": "ca.crt"}
    return {"RAY_USE_TLS": "1"} | {f"RAY_TLS_{name}": str(machine.pki / file) for name, file in files.items()}


def start_command(config: ClusterConfig, machine: MachineConfig, python: Path) -> list[str]:
    """`ray start` without --block: its processes become orphans, hence children of sk8-machine, and 90 MB are saved."""
    ports = config.ray_ports
    command = [str(python.with_name("ray")), "start"]
    if is_head(config, machine):
        command += ["--head", f"--port={ports.gcs}", "--include-dashboard=false", "--no-monitor"]
        command += [f"--ray-client-server-port={ports.client_server}"]
    else:
        command += [f"--address={config.gcs_address}"]
    return [
        *command,
        f"--node-ip-address={machine.ip}",
        f"--node-name={machine.name}",
        f"--node-manager-port={ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--runtime-env-agent-port={ports.runtime_env_agent}",
        f"--dashboard-agent-grpc-port={ports.agent_grpc}",
        f"--dashboard-agent-listen-port={ports.agent_http}",
        f"--metrics-export-port={ports.metrics_export}",
        f"--min-worker-port={ports.worker_min}",
        f"--max-worker-port={ports.worker_max}",
        f"--num-cpus={config.ray_num_cpus}",
        f"--object-store-memory={config.ray_object_store_bytes}",
        f"--resources={json.dumps({machine.ray_resource: 1000})}",
        f"--temp-dir={machine.ray_dir}",
        "--include-log-monitor=false",
        "--disable-usage-stats",
    ]


def ensure_command(config: ClusterConfig, machine: MachineConfig, python: Path) -> list[str]:
    """The short driver that creates this machine's missing actors; exit code 0 means that all are there."""
    custom = [part.format(machine=machine.name, base=config.base_dir, python=python) for part in config.ensure_command]
    return custom or [str(python), "-m", "actors.ensure", "--machine", machine.name, "--base", config.base_dir]


def stop_command(config: ClusterConfig, machine: MachineConfig, python: Path) -> list[str]:
    """Stops this machine's actors in good order before a planned stop; empty when actors are not ours to stop."""
    if config.ensure_command:
        return []
    return [*ensure_command(config, machine, python), "--stop"]


def _main(base: Path) -> None:
    """Nothing where there is no cluster yet."""
    try:
        cluster, machine = load_cluster(base), load_machine(base, only_machine(base))
    except FileNotFoundError:
        return
    for name, value in environment(cluster, machine, Path(sys.executable), None, {}).items():
        if name.startswith(("RAY_", "SK8_")):
            print(f"{name}={value}")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
