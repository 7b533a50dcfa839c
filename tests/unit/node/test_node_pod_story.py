"""A core's story in plain words."""

from cluster.node import core_events as ev
from cluster.node.pod_story import told

POD = {"metadata": {"name": "p"}}


def test_the_way_of_a_pod_is_told_once_and_in_order() -> None:
    story = [
        (1, 10.0, ev.Adopt(None), (ev.MountVolumes(1),)),
        (2, 10.1, ev.PodSeen(POD), ()),
        (3, 10.2, ev.VolumesReady(), (ev.StartSandbox(0, 3),)),
        (4, 10.5, ev.SandboxReady("s", "10.1.1.2"), ()),
        (5, 11.0, ev.ContainerStarted("c", "id", "image", 11.0), ()),
        (6, 12.0, ev.ProbeDone("c", "id", "readiness", False), ()),
        (7, 13.0, ev.ProbeDone("c", "id", "readiness", True), ()),
        (8, 14.0, ev.ProbeDone("c", "id", "readiness", True), ()),
        (9, 20.0, ev.ContainerExited("c", ev.ExitInfo("id", 1, "Error")), ()),
    ]
    assert [(s["at"], s["step"], s["about"]) for s in told(story)] == [
        (10.0, "seen", ""),
        (10.2, "volumes mounted", ""),
        (10.2, "sandbox begun", ""),
        (10.5, "sandbox ready", "10.1.1.2"),
        (11.0, "container started", "c"),
        (13.0, "probe passed", "c, readiness"),
        (20.0, "container ended", "c: Error, 1"),
    ]
