"""Completion indexes of an Indexed Job: the text form of a set of them, and which pods have which.

Pure. Source: kubernetes pkg/controller/job/indexed_job_utils.go. `1,3-5,7` stands for 1, 3, 4, 5, 7; two neighbours
are written `1,2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cluster.machinery.client import Obj

INDEX_KEY = "batch.kubernetes.io/job-completion-index"
INDEX_ENV = "JOB_COMPLETION_INDEX"


def parse(text: str, completions: int) -> set[int]:
    """Indexes at or above `completions` are dropped; malformed parts too."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        low, dash, high = part.partition("-")
        try:
            first, last = int(low), int(high) if dash else int(low)
        except ValueError:
            continue
        found.update(range(first, min(last, completions - 1) + 1))
    return found


def render(indexes: Iterable[int]) -> str:
    parts: list[str] = []
    run: list[int] = []
    for index in [*sorted(indexes), -1]:
        if run and index == run[-1] + 1:
            run.append(index)
            continue
        if len(run) > 2:
            parts.append(f"{run[0]}-{run[-1]}")
        else:
            parts.extend(str(i) for i in run)
        run = [index]
    return ",".join(parts)


def index_of(pod: Obj) -> int | None:
    """The pod's completion index; None when it has none."""
    text = (pod["metadata"].get("annotations") or {}).get(INDEX_KEY, "")
    return int(text) if text.isascii() and text.isdigit() else None


def free(completions: int, taken: set[int], count: int) -> list[int]:
    """The `count` lowest indexes that are not taken."""
    found: list[int] = []
    for index in range(completions):
        if len(found) == count:
            break
        if index not in taken:
            found.append(index)
    return found


def superfluous(active: Sequence[Obj], completions: int, done: set[int]) -> list[Obj]:
    """Active pods of indexes that need none: out of range, done already, or had by another pod."""
    seen: set[int] = set()
    out: list[Obj] = []
    for pod in active:
        index = index_of(pod)
        if index is None or index >= completions or index in done or index in seen:
            out.append(pod)
        else:
            seen.add(index)
    return out


def identify(pod: Obj, job_name: str, index: int) -> None:
    """Give a new pod its index: annotation, label, host name, environment; in place."""
    meta = pod["metadata"]
    meta["generateName"] = f"{job_name}-{index}-"
    meta.setdefault("annotations", {})[INDEX_KEY] = str(index)
    meta.setdefault("labels", {})[INDEX_KEY] = str(index)
    pod["spec"]["hostname"] = f"{job_name}-{index}"
    reference = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX_KEY}']"}}
    for field in ("initContainers", "containers"):
        for container in pod["spec"].get(field) or ():
            env = container.setdefault("env", [])
            if not any(e.get("name") == INDEX_ENV for e in env):
                env.append({"name": INDEX_ENV, "valueFrom": reference})
