"""What the kubelet says about use: control groups of both versions, rates, the summary and the resource metrics."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from cluster.node.cgroups import Cgroups
from cluster.node.machine_usage import MachineUsage
from cluster.node.metering import link_counters
from cluster.node.runtime import ContainerInfo, PodRef, Usage
from cluster.node.stats import DiskUsage, NodeFacts, Rates, Sample, resource_metrics, summary


def files(root: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V1_STAT = "cache 5\ntotal_inactive_file 30\ntotal_rss 60\ntotal_pgfault 7\ntotal_pgmajfault 1\n"
V2_STAT = "anon 60\ninactive_file 30\npgfault 7\npgmajfault 1\n"
EXPECTED = Usage(5.0, 2_000_000, 100, 70, 60, 7, 1)


def test_version_one(tmp_path: Path) -> None:
    of_memory = {"memory.usage_in_bytes": "100\n", "memory.stat": V1_STAT}
    files(tmp_path / "memory/docker/abc", of_memory)
    files(tmp_path / "cpuacct/docker/abc", {"cpuacct.usage": "2000000\n"})
    assert Cgroups(lambda: 5.0, tmp_path).usage("abc") == EXPECTED
    assert Cgroups(lambda: 5.0, tmp_path).usage("other") is None


def test_version_two_below_a_slice(tmp_path: Path) -> None:
    files(tmp_path, {"cgroup.controllers": "cpu memory\n"})
    group = {"memory.current": "100\n", "memory.stat": V2_STAT, "cpu.stat": "usage_usec 2000\nuser_usec 1\n"}
    files(tmp_path / "system.slice/docker-abc.scope", group)
    assert Cgroups(lambda: 5.0, tmp_path).usage("abc") == EXPECTED


def process(proc: Path, pid: int, ticks: int, pages: tuple[int, int] = (10, 4)) -> None:
    fields = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 6, f"start{pid}", "0"]
    files(proc / str(pid), {"stat": f"{pid} (a ) b) {' '.join(fields)}", "statm": f"99 {pages[0]} {pages[1]} 0 0 0 0"})


def test_a_local_machine_is_its_processes_and_containers_and_forgets_no_cpu(tmp_path: Path) -> None:
    process(tmp_path, 1, 100)
    process(tmp_path, 7, 50)
    files(tmp_path, {"meminfo": "x", "self/stat": "x"})
    machine = MachineUsage(lambda: 5.0, local=True, proc=tmp_path)
    first = machine.sample({"c": Usage(5.0, 1_000_000_000, 1000, 900, 800, 0, 0)})
    assert first.cpu_ns == 1_500_000_000 + 1_000_000_000
    assert first.working_set_bytes == 2 * 6 * 4096 + 900
    for name in ("stat", "statm"):
        (tmp_path / "7" / name).unlink()
    process(tmp_path, 1, 110)
    second = machine.sample({})
    assert second.cpu_ns == first.cpu_ns + 100_000_000


def sample(cpu: int, rates: dict[str, int]) -> Sample:
    info = ContainerInfo("id", PodRef("ns", "p", "u"), "c", 0, "running", created_at=50.0)
    containers = {"id": (info, Usage(100.0, cpu, 5, 4, 3, 2, 1))}
    return Sample(Usage(100.0, 9_000_000_000, 80, 70, 60, 0, 0), containers, rates)


FACTS = NodeFacts("m1", 100, {"u": "t"}, DiskUsage(1000, 400, 50, 20), {"u": (1, 2), "": (3, 4)}, (5, 6))


def test_rates_need_two_samples() -> None:
    rates = Rates()
    assert rates.nano_cores("a", 10.0, 1_000_000_000) is None
    assert rates.nano_cores("a", 12.0, 2_000_000_000) == 500_000_000
    assert rates.nano_cores("a", 12.1, 9_000_000_000) == 500_000_000, "too soon after the last to say anything"
    rates.keep_only(set())
    assert rates.nano_cores("a", 20.0, 1) is None


def test_the_summary() -> None:
    body = summary(sample(2_000_000_000, {"id": 250_000_000, "": 1}), FACTS)
    pod = body["pods"][0]
    assert pod["podRef"] == {"name": "p", "namespace": "ns", "uid": "u"} and pod["startTime"] == "t"
    assert pod["containers"][0]["cpu"]["usageNanoCores"] == pod["cpu"]["usageNanoCores"] == 250_000_000
    assert pod["memory"]["workingSetBytes"] == 4
    assert (pod["network"]["rxBytes"], pod["network"]["txBytes"]) == (1, 2)
    node = body["node"]
    assert node["memory"]["availableBytes"] == 30
    assert (node["fs"]["availableBytes"], node["fs"]["usedBytes"], node["fs"]["inodesUsed"]) == (400, 600, 30)
    assert node["rlimit"]["maxpid"] == 6


def test_the_resource_metrics_are_prometheus_text() -> None:
    families = {f.name: f for f in text_string_to_metric_families(resource_metrics(sample(2_000_000_000, {})))}
    cpu = families["container_cpu_usage_seconds"].samples[0]
    assert cpu.labels == {"container": "c", "namespace": "ns", "pod": "p"} and cpu.value == 2.0
    assert families["pod_memory_working_set_bytes"].samples[0].value == 4
    assert families["node_cpu_usage_seconds"].samples[0].value == 9.0
    assert families["container_start_time_seconds"].samples[0].value == 50.0
    assert families["resource_scrape_error"].samples[0].value == 0


def test_link_counters() -> None:
    table = (
        "Inter-| Receive | Transmit\n face |bytes ...\n    lo: 1 2 3 4 5 6 7 8 9 10 11\nvethab:10 0 0 0 0 0 0 0 20 0\n"
    )
    assert link_counters(table) == {"lo": (1, 9), "vethab": (10, 20)}
