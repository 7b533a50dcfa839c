"""The KubeSchedulerConfiguration file: what it sets, and what is wrong with one said in Kubernetes' words."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from cluster.scheduler.config import DEFAULT_WEIGHTS, FILTERS, REFERENCE, DefaultConstraint
from cluster.scheduler.configfile import SchedulerConfigError, load, parse

HEAD = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

WHOLE = """
percentageOfNodesToScore: 30
podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 20
clientConnection: {qps: 200, burst: 400}
leaderElection: {leaseDuration: 5s}
profiles:
- schedulerName: packed
  plugins:
    score:
      enabled: [{name: ImageLocality, weight: 9}]
      disabled: [{name: InterPodAffinity}]
    filter:
      disabled: [{name: NodePorts}]
    postFilter:
      disabled: [{name: '*'}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResources: [example.com/foo]
      ignoredResourceGroups: [vendor.io]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 3}, {name: nvidia.com/gpu}]
        requestedToCapacityRatio:
          shape: [{utilization: 0, score: 0}, {utilization: 70, score: 10}]
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints: [{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 7}
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms:
          - matchExpressions: [{key: pool, operator: In, values: [batch]}]
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 5, minCandidateNodesAbsolute: 7}
"""


def test_a_whole_file() -> None:
    config = parse(HEAD + WHOLE, "m1")
    assert (config.identity, config.qps, config.burst, config.lease_ttl_s) == ("m1", 200.0, 400, 5)
    assert (config.initial_backoff_s, config.max_backoff_s, config.hard_pod_affinity_weight) == (2.0, 20.0, 7)
    packed, reference = config.profiles
    assert reference == REFERENCE, "it is there unless a profile takes its name"
    assert packed.scheduler_name == "packed" and packed.percentage_to_score == 30
    weights = dict(packed.weights)
    assert weights["ImageLocality"] == 9 and "InterPodAffinity" not in weights
    assert packed.disabled_filters == {"NodePorts"} and not packed.preemption
    assert packed.strategy == "RequestedToCapacityRatio" and packed.utilization_shape == ((0, 0), (70, 10))
    assert packed.resources == (("cpu", 3), ("nvidia.com/gpu", 1))
    assert packed.ignores("example.com/foo") and packed.ignores("vendor.io/x") and not packed.ignores("cpu")
    assert packed.default_constraints == (DefaultConstraint("rack", 2, hard=True),)
    assert b"batch" in packed.added_affinity and orjson.loads(packed.added_affinity)
    assert packed.candidates == (5, 7)


def test_an_empty_file_is_the_defaults() -> None:
    config = parse(HEAD)
    assert dict(config.profiles[0].weights) == dict(DEFAULT_WEIGHTS)
    assert config.profiles[0].disabled_filters == frozenset()
    assert config.profiles[0].percentage_to_score is None, "all nodes are looked at"
    assert (config.qps, config.burst) == (0.0, 0), "nothing bounds the writes"
    assert load("", "m1").identity == "m1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles:\n- schedulerName: a\n  foo: 1\n", 'strict decoding error: unknown field "profiles[0].foo"'),
        ("podMaxBackoffSeconds: 5\npodMaxBackoffSeconds: 6\n", 'key "podMaxBackoffSeconds" already set in map'),
        ("percentageOfNodesToScore: 101\n", "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]"),
        ("parallelism: 0\n", "parallelism: Invalid value: 0: should be an integer value greater than zero"),
        ("podInitialBackoffSeconds: 0\n", "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"),
        (
            "podInitialBackoffSeconds: 9\npodMaxBackoffSeconds: 3\n",
            "podMaxBackoffSeconds: Invalid value: 3: must be greater than or equal to PodInitialBackoffSeconds",
        ),
        ("profiles:\n- schedulerName: ''\n", "profiles[0].schedulerName: Required value"),
        (
            "profiles:\n- schedulerName: a\n- schedulerName: a\n",
            'profiles[1].schedulerName: Duplicate value: "a"',
        ),
        (
            "profiles:\n- plugins: {score: {enabled: [{name: Foo}]}}\n",
            'profiles[0].plugins.score.enabled[0]: score plugin "Foo" does not exist',
        ),
        (
            "profiles:\n- plugins: {filter: {enabled: [{name: 'no.such:Thing'}]}}\n",
            "No module named 'no'",
        ),
        ("profiles:\n- plugins: {permit: {enabled: [{name: X}]}}\n", "profiles[0].plugins.permit: Forbidden"),
        (
            "profiles:\n- pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: Fullest}}}]\n",
            'args.scoringStrategy.type: Unsupported value: "Fullest"',
        ),
        (
            "profiles:\n- pluginConfig: [{name: PodTopologySpread, args: "
            "{defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway}]}}]\n",
            "when .defaultConstraints are specified",
        ),
        (
            "profiles:\n- pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]\n",
            "args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
        ),
        ("extenders: [{urlPrefix: x}]\n", "extenders: Forbidden: webhooks are not called"),
        ("leaderElection: {leaderElect: false}\n", "leaderElection.leaderElect: Invalid value: False"),
        ("clientConnection: {qps: many}\n", 'clientConnection.qps: Invalid value: "many": must be a number'),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(SchedulerConfigError) as error:
        parse(HEAD + text)
    assert message in str(error.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(SchedulerConfigError) as error:
        parse(HEAD + "parallelism: 0\npercentageOfNodesToScore: -1\nfoo: 1\n")
    assert len(str(error.value).splitlines()) == 3


def test_another_kind_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchedulerConfigError, match="no kind registered"):
        parse("apiVersion: v1\nkind: ConfigMap\n")
    with pytest.raises(SchedulerConfigError, match="No such file"):
        load(str(tmp_path / "gone.yaml"), "m1")


def test_star_turns_everything_off_and_names_turn_some_on() -> None:
    text = "profiles:\n- plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit}]}}\n"
    profile = parse(HEAD + text).profiles[0]
    assert profile.disabled_filters == frozenset(FILTERS) - {"NodeResourcesFit"}
    assert profile.weights == (("NodeResourcesFit", 1),)
    assert not profile.preemption
