"""kube-scheduler's configuration file: a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) into our settings.

Pure, but for `load`, which reads the file and imports the plugins it names. Strict: unknown and repeated fields are
errors, and all that is wrong is said at once, in kube-scheduler's words where it has some. What kube-scheduler knows
and we cannot do is refused rather than ignored, but for settings without a meaning here (`_WITHOUT_MEANING`).
Source: k8s.io/kube-scheduler/config/v1 types and defaults, pkg/scheduler/apis/config/validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.scheduler.config import DEFAULT_WEIGHTS, FILTERS, LEASE_S, REFERENCE, Profile, SchedulerConfig
from cluster.scheduler.configargs import ARGS
from cluster.scheduler.plugin import Plugin
from cluster.scheduler.plugin import load as load_plugin

API_VERSION, KIND = "kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration"
_WITHOUT_MEANING = (
    *("parallelism", "healthzBindAddress", "metricsBindAddress", "enableProfiling", "enableContentionProfiling"),
    *("delayCacheUntilActive",),
)
_LEADER = ("leaderElect", "leaseDuration", "renewDeadline", "retryPeriod", "resourceLock", "resourceName",
           "resourceNamespace")  # fmt: skip
_CONNECTION = ("kubeconfig", "acceptContentTypes", "contentType", "qps", "burst")
_OTHER_PLUGINS = (*("SchedulingGates", "PrioritySort", "DefaultPreemption", "DefaultBinder", "DynamicResources"),)
_SCORES = tuple(name for name, _ in DEFAULT_WEIGHTS)
KNOWN = tuple(dict.fromkeys((*FILTERS, *_SCORES, *_OTHER_PLUGINS)))
_POINTS = ("queueSort", "preEnqueue", "preFilter", "filter", "postFilter", "preScore", "score", "reserve", "permit",
           "preBind", "bind", "postBind", "multiPoint")  # fmt: skip
_OURS = ("filter", "postFilter", "score", "multiPoint")
Document = dict[str, Any]


class SchedulerConfigError(ValueError):
    """The file cannot be used; each line says one reason."""


@dataclass(slots=True)
class Problems:
    """What is wrong, collected."""

    found: list[str] = field(default_factory=list)

    def invalid(self, path: str, value: Any, why: str) -> None:
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        self.found.append(f"{path}: Invalid value: {shown}: {why}")

    def add(self, text: str) -> None:
        self.found.append(text)

    def mapping(self, value: Any, path: str, known: tuple[str, ...]) -> Document:
        """The value as an object with known fields only; {} when it is none."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.invalid(path, value, "must be an object")
            return {}
        for name in value:
            if name not in known:
                where = f"{path}.{name}" if path else str(name)
                self.add(f'strict decoding error: unknown field "{where}"')
        return dict(value)

    def items(self, value: Any, path: str) -> list[Any]:
        if value is None or isinstance(value, list):
            return value or []
        self.invalid(path, value, "must be a list")
        return []

    def whole(self, value: Any, path: str, low: int, high: int, why: str) -> int:
        """A whole number within bounds; the lower bound when it is none."""
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.invalid(path, value, why)
        return low


def load(path: str, identity: str) -> SchedulerConfig:
    """The settings of a file; the defaults without one ("" as path). Raises SchedulerConfigError."""
    if not path:
        return SchedulerConfig(identity=identity)
    try:
        text = Path(path).read_text()
    except OSError as e:
        raise SchedulerConfigError(f"{path}: {e.strerror}") from e
    return parse(text, identity)


class _Strict(yaml.SafeLoader):
    """Refuses a key that stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise SchedulerConfigError(f'strict decoding error: key "{twice}" already set in map')
        return super().construct_mapping(node, deep)


def parse(text: str, identity: str = "scheduler") -> SchedulerConfig:
    """Raises SchedulerConfigError with all that is wrong."""
    try:
        document = yaml.load(text, _Strict)
    except yaml.YAMLError as e:
        raise SchedulerConfigError(f"not YAML: {e}") from e
    problems = Problems()
    known = ("apiVersion", "kind", "clientConnection", "leaderElection", "percentageOfNodesToScore", "profiles",
             "podInitialBackoffSeconds", "podMaxBackoffSeconds", "extenders", *_WITHOUT_MEANING)  # fmt: skip
    raw = problems.mapping(document, "", known)
    if (raw.get("apiVersion"), raw.get("kind")) != (API_VERSION, KIND):
        said = f"{raw.get('apiVersion')}, Kind={raw.get('kind')}"
        raise SchedulerConfigError(f"no kind registered for {said}: the file holds a {KIND} of {API_VERSION}")
    config = _config(raw, identity, problems)
    if problems.found:
        raise SchedulerConfigError("\n".join(problems.found))
    try:
        config.validate()
    except ValueError as e:
        raise SchedulerConfigError(str(e)) from e
    return config


def _config(raw: Document, identity: str, problems: Problems) -> SchedulerConfig:
    if raw.get("extenders"):
        problems.add("extenders: Forbidden: webhooks are not called; write a plugin class (docs/scheduler.md)")
    if "parallelism" in raw:
        problems.whole(raw["parallelism"], "parallelism", 1, 1 << 31, "should be an integer value greater than zero")
    qps, burst = _connection(raw.get("clientConnection"), problems)
    first = problems.whole(
        raw.get("podInitialBackoffSeconds", 1), "podInitialBackoffSeconds", 1, 1 << 31, "must be greater than 0"
    )
    last = problems.whole(
        raw.get("podMaxBackoffSeconds", 10),
        "podMaxBackoffSeconds",
        first,
        1 << 31,
        "must be greater than or equal to PodInitialBackoffSeconds",
    )
    percentage = _percentage(raw.get("percentageOfNodesToScore"), "percentageOfNodesToScore", problems)
    weights: list[int] = []
    profiles = _profiles(problems.items(raw.get("profiles"), "profiles"), percentage, weights, problems)
    if len(set(weights)) > 1:
        problems.add("profiles: hardPodAffinityWeight must be the same in all profiles: what it adds is counted once")
    return SchedulerConfig(
        identity=identity,
        lease_ttl_s=_leader(raw.get("leaderElection"), problems),
        initial_backoff_s=float(first),
        max_backoff_s=float(last),
        qps=qps,
        burst=burst,
        hard_pod_affinity_weight=weights[0] if weights else 1,
        profiles=profiles,
    )


def _connection(value: Any, problems: Problems) -> tuple[float, int]:
    """(qps, burst); 0 and 0 without a bound, which a negative qps means too."""
    raw = problems.mapping(value, "clientConnection", _CONNECTION)
    qps, burst = raw.get("qps", 0), raw.get("burst", 0)
    if not isinstance(qps, int | float) or isinstance(qps, bool):
        problems.invalid("clientConnection.qps", qps, "must be a number")
        return 0.0, 0
    problems.whole(burst, "clientConnection.burst", 0, 1 << 31, "must be non-negative")
    if qps <= 0:
        return 0.0, 0
    return float(qps), int(burst) if isinstance(burst, int) and burst > 0 else max(int(2 * qps), 1)


def _leader(value: Any, problems: Problems) -> int:
    """The lease's seconds. Election cannot be turned off: its lease is what keeps two schedulers apart."""
    raw = problems.mapping(value, "leaderElection", _LEADER)
    if raw.get("leaderElect") is False:
        problems.invalid("leaderElection.leaderElect", False, "every write of the scheduler is compared with its lease")
    text = str(raw.get("leaseDuration", f"{LEASE_S}s"))
    seconds = text.removesuffix("s")
    if not seconds.isdigit() or int(seconds) < 2:
        problems.invalid("leaderElection.leaseDuration", text, "must be whole seconds, 2s or more")
        return LEASE_S
    return int(seconds)


def _percentage(value: Any, path: str, problems: Problems) -> int | None:
    if value is None:
        return None
    return problems.whole(value, path, 0, 100, "not in valid range [0-100]")


# ---- profiles


def _profiles(values: list[Any], percentage: int | None, weights: list[int], problems: Problems) -> tuple[Profile, ...]:
    made = tuple(_profile(v, f"profiles[{i}]", percentage, weights, problems) for i, v in enumerate(values))
    for i, one in enumerate(made):
        if one.scheduler_name in [other.scheduler_name for other in made[:i]]:
            problems.add(f'profiles[{i}].schedulerName: Duplicate value: "{one.scheduler_name}"')
    made = made or (Profile(percentage_to_score=percentage),)
    return made if any(p.scheduler_name == REFERENCE.scheduler_name for p in made) else (*made, REFERENCE)


def _profile(value: Any, path: str, percentage: int | None, weights: list[int], problems: Problems) -> Profile:
    raw = problems.mapping(value, path, ("schedulerName", "percentageOfNodesToScore", "plugins", "pluginConfig"))
    own = _percentage(raw.get("percentageOfNodesToScore"), f"{path}.percentageOfNodesToScore", problems)
    name = raw.get("schedulerName", "default-scheduler")
    if not isinstance(name, str) or not name:
        problems.add(f"{path}.schedulerName: Required value")
        name = "default-scheduler"
    settings, args = _plugin_config(raw.get("pluginConfig"), f"{path}.pluginConfig", problems)
    weights.append(settings.pop("hard_pod_affinity_weight", 1))
    chosen = _Chosen(path=f"{path}.plugins", args=args, problems=problems)
    chosen.read(raw.get("plugins"))
    return Profile(
        scheduler_name=name,
        weights=tuple(chosen.weights.items()),
        disabled_filters=frozenset(FILTERS) - chosen.filters,
        preemption=chosen.preemption,
        percentage_to_score=own if own is not None else percentage,
        plugins=tuple(chosen.own.values()),
        **settings,
    )


def _plugin_config(value: Any, path: str, problems: Problems) -> tuple[Document, dict[str, Document]]:
    """(fields of Profile, args of plugins of one's own by name)."""
    settings: Document = {}
    own: dict[str, Document] = {}
    seen: list[str] = []
    for i, entry in enumerate(problems.items(value, path)):
        raw = problems.mapping(entry, f"{path}[{i}]", ("name", "args"))
        name, where = raw.get("name", ""), f"{path}[{i}].args"
        if name in seen:
            problems.add(f'{path}[{i}]: Duplicate value: "{name}"')
        seen.append(name)
        if name in ARGS:
            settings |= ARGS[name](raw.get("args"), where, problems)
        elif name in KNOWN or ":" not in name:
            problems.invalid(f"{path}[{i}].name", name, "no such plugin takes args")
        else:
            own[name] = dict(raw.get("args") or {})
    return settings, own


@dataclass(slots=True)
class _Chosen:
    """Which plugins a profile has, as enabled and disabled change the defaults."""

    path: str
    args: Mapping[str, Document]
    problems: Problems
    filters: set[str] = field(default_factory=lambda: set(FILTERS))
    weights: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    preemption: bool = True
    own: dict[str, Plugin] = field(default_factory=dict)

    def read(self, value: Any) -> None:
        raw = self.problems.mapping(value, self.path, _POINTS)
        for point in sorted(raw, key=lambda p: p != "multiPoint"):  # a point of its own overrides multiPoint
            sets = self.problems.mapping(raw[point], f"{self.path}.{point}", ("enabled", "disabled"))
            if point in _POINTS and point not in _OURS and sets:
                self.problems.add(
                    f"{self.path}.{point}: Forbidden: there is no such step here, only {', '.join(_OURS)}"
                )
                continue
            for name, _ in self._names(sets, point, "disabled"):
                self._disable(point, name)
            for name, weight in self._names(sets, point, "enabled"):
                self._enable(point, name, weight)

    def _names(self, sets: Document, point: str, which: str) -> list[tuple[str, int]]:
        path = f"{self.path}.{point}.{which}"
        made: list[tuple[str, int]] = []
        for i, entry in enumerate(self.problems.items(sets.get(which), path)):
            raw = self.problems.mapping(entry, f"{path}[{i}]", ("name", "weight"))
            name = str(raw.get("name", ""))
            weight = self.problems.whole(raw.get("weight", 0), f"{path}[{i}].weight", 0, 100, "must be 0 to 100")
            if not self._exists(name, star=which == "disabled"):
                self.problems.add(f'{path}[{i}]: {point} plugin "{name}" does not exist')
            elif which == "enabled" and name in [known for known, _ in made]:
                self.problems.add(f'{path}[{i}]: plugin "{name}" already registered as "{name}"')
            else:
                made.append((name, weight))
        return made

    def _exists(self, name: str, *, star: bool) -> bool:
        if name in KNOWN or name in self.own or (star and (name == "*" or ":" in name)):
            return True
        try:
            self.own[name] = load_plugin(name, self.args.get(name, {}))
        except ValueError as e:
            self.problems.add(str(e))
            return False
        return True

    def _disable(self, point: str, name: str) -> None:
        everything = name == "*"
        if point in ("multiPoint", "filter"):
            self.filters = set() if everything else self.filters - {name}
        if point in ("multiPoint", "score"):
            self.weights = {} if everything else {k: v for k, v in self.weights.items() if k != name}
        if point in ("multiPoint", "postFilter") and name in ("*", "DefaultPreemption"):
            self.preemption = False

    def _enable(self, point: str, name: str, weight: int) -> None:
        if point in ("multiPoint", "filter") and name in FILTERS:
            self.filters.add(name)
        scores = name in _SCORES or (name in self.own and self.own[name].scores)
        if point in ("multiPoint", "score") and scores:
            self.weights[name] = weight or dict(DEFAULT_WEIGHTS).get(name, 1 if point == "multiPoint" else 0) or 1
        if point in ("multiPoint", "postFilter") and name == "DefaultPreemption":
            self.preemption = True
