"""`sk8 node drain|cordon|uncordon` beside kubectl's own commands: the same words, the same exit codes, the same end."""

import io
import json
from dataclasses import replace

import pytest

from cluster.cli.main import parser
from cluster.cli.output import CommandError, Output
from cluster.machine.config import ClusterConfig, save_cluster
from tests.support.kubectl import NEEDS_KUBECTL
from tests.support.kubectl_world import kubectl_cluster

pytestmark = NEEDS_KUBECTL

_CONTAINERS = [{"name": "c", "image": "busybox:1", "command": ["sleep", "600"]}]
_ALL = ("--force", "--ignore-daemonsets", "--delete-emptydir-data")


def bare(name: str, **spec: object) -> str:
    """A pod without a controller; the played kubelet runs it on n1."""
    meta = {"name": name, "namespace": "default", "labels": {"app": name}}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": _CONTAINERS, **spec}}
    )


def workload(kind: str, name: str, **spec: object) -> str:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": _CONTAINERS, **spec}}
    body = {"selector": {"matchLabels": labels}, "template": template}
    body |= {"serviceName": name, "replicas": 2} if kind == "StatefulSet" else {}
    return json.dumps({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": body})


def _once(told: str) -> str:
    """Without its repetitions: how often one that is refused is tried again hangs on how busy the box is."""
    return "\n".join(dict.fromkeys(told.splitlines()))


def _plain(said: str) -> str:
    """Without what differs on purpose: kubectl 1.32 says one thing twice (1.36 does not), and its last error bare."""
    lines = said.replace("cannot delete cannot delete", "cannot delete").splitlines()
    return _once("\n".join(line.removeprefix("error: ") for line in lines))


class Both:
    """The same command said to kubectl and to sk8, on one cluster."""

    def __init__(self, cluster, base) -> None:
        self.kubectl, self._cluster, self._base = cluster.kubectl, cluster, base

    async def sk8(self, *command: str) -> tuple[int, str, str]:
        args, out = (
            parser().parse_args(["node", *command, f"--base={self._base}"]),
            Output(out=io.StringIO(), err=io.StringIO()),
        )
        try:
            code = await args.run(args, out)
        except CommandError as e:
            code = e.code
            out.error(e)
        return code, out.out.getvalue(), out.err.getvalue()

    async def same(self, *command: str, again: str = "") -> tuple[int, str, str]:
        """What both said, from the same state on: schedulable nodes, and the pod `again` made and ready again."""
        await self._as_before(again)
        theirs = await self._cluster.run(*command)
        await self._as_before(again)
        ours = await self.sk8(*command)
        assert (ours[0], _once(ours[1]), _plain(ours[2])) == (theirs[0], _once(theirs[1]), _plain(theirs[2]))
        return ours

    async def _as_before(self, again: str) -> None:
        await self.kubectl("uncordon", "n1", "n2")
        if again:
            await self.waits_for("--for=create", f"pod/{again}")
            await self.waits_for("--for=condition=Ready", f"pod/{again}")

    async def waits_for(self, *what: str) -> None:
        await self.kubectl("wait", "--timeout=60s", *what)


@pytest.fixture
async def both(tmp_path):
    async with kubectl_cluster(tmp_path) as cluster:
        base = tmp_path / "base"
        port = int(cluster.server.url.rpartition(":")[2])
        config = replace(ClusterConfig.local(), base_dir=str(base), api_port=port)
        config.pki.mkdir(parents=True)
        for name in ("ca.crt", "admin.crt", "admin.key"):
            (config.pki / name).symlink_to(tmp_path / name)
        save_cluster(config)
        yield Both(cluster, base)


async def test_cordon_and_uncordon(both) -> None:
    assert await both.same("cordon", "n1", "n2") == (0, "node/n1 cordoned\nnode/n2 cordoned\n", "")
    assert await both.same("cordon", "n1", "--dry-run=client") == (0, "node/n1 cordoned (dry run)\n", "")
    assert await both.same("cordon", "n1", "--dry-run=server") == (0, "node/n1 cordoned (server dry run)\n", "")
    assert await both.sk8("cordon", "n1") == (0, "node/n1 cordoned\n", "")
    assert await both.sk8("cordon", "n1") == await both._cluster.run("cordon", "n1")
    assert "SchedulingDisabled" in await both.kubectl("get", "node", "n1")
    assert await both.sk8("uncordon", "n1") == (0, "node/n1 uncordoned\n", "")
    assert "SchedulingDisabled" not in await both.kubectl("get", "node", "n1")
    await both.kubectl("label", "node", "n2", "rack=b")
    assert (await both.same("cordon", "-l", "rack in (b)"))[1] == "node/n2 cordoned\n"
    code, _, said = await both.sk8("cordon", "n9")
    assert code == 1 and said.startswith('error: nodes "n9" not found')
    assert (await both.sk8("drain", "n1", "-l", "rack=b"))[0] == (
        await both._cluster.run("drain", "n1", "-l", "rack=b")
    )[0]
    assert (await both.sk8("drain"))[0] == (await both._cluster.run("drain"))[0] == 1


async def test_what_forbids_a_drain_forbids_it_in_the_same_words(both) -> None:
    await both.kubectl("apply", "-f", "-", stdin=bare("alone"))
    await both.kubectl("apply", "-f", "-", stdin=workload("DaemonSet", "agent"))
    scratch = workload("StatefulSet", "scratch", volumes=[{"name": "tmp", "emptyDir": {}}])
    await both.kubectl("apply", "-f", "-", stdin=scratch)
    await both.waits_for("--for=jsonpath={.status.readyReplicas}=2", "sts/scratch")
    await both.waits_for("--for=jsonpath={.status.numberReady}=2", "ds/agent")
    for app in ("alone", "agent", "scratch"):
        code, _, said = await both.same("drain", "n1", f"--pod-selector=app={app}")
        assert code == 1 and "cannot delete" in said and f"default/{app}" in said
    for dry in ("client", "server"):
        code, told, _ = await both.same(
            "drain", "n1", "--pod-selector=app in (agent)", "--ignore-daemonsets", f"--dry-run={dry}"
        )
        assert code == 0 and "node/n1 drained" in told
    selected = "--pod-selector=app=alone"
    assert (
        "evicting pod default/alone (dry run)"
        in (await both.same("drain", "n1", selected, "--force", "--dry-run=client"))[1]
    )
    code, _, said = await both.sk8("drain", "n1")
    assert code == 1 and said.count("cannot delete") == 6 and len(await both._cluster.columns("pods")) == 5


async def test_a_drain_moves_what_may_be_moved_and_respects_a_budget(both) -> None:
    await both.kubectl("apply", "-f", "-", stdin=workload("StatefulSet", "db"))
    await both.kubectl("create", "pdb", "db", "--selector=app=db", "--min-available=2")
    await both.waits_for("--for=jsonpath={.status.currentHealthy}=2", "pdb/db")
    refused = await both.same("drain", "n1", "--pod-selector=statefulset.kubernetes.io/pod-name=db-0", "--timeout=4s")
    assert refused[0] == 1 and "Cannot evict pod as it would violate the pod's disruption budget." in refused[2]
    await both.kubectl("delete", "pdb", "db")
    moved = "--pod-selector=statefulset.kubernetes.io/pod-name=db-0"
    for way in ((), ("--disable-eviction",), ("--grace-period=0",)):
        code, told, _ = await both.same("drain", "n1", moved, *way, again="db-0")
        done = "deleted" if way == ("--disable-eviction",) else "evicted"
        assert code == 0 and told.endswith(f"pod/db-0 {done}\nnode/n1 drained\n")
    await both.waits_for("--for=jsonpath={.status.readyReplicas}=2", "sts/db")
    await both.kubectl("apply", "-f", "-", stdin=bare("alone"))
    await both.waits_for("--for=condition=Ready", "pod/alone")
    code, told, warned = await both.sk8("drain", "n1", *_ALL)
    assert code == 0 and warned == "Warning: deleting Pods that declare no controller: default/alone\n"
    assert "node/n1 already cordoned" in told and "pod/alone evicted" in told and told.endswith("node/n1 drained\n")
