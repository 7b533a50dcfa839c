"""Which settings a running cluster may change."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from cluster.machine.changes import CHANGEABLE, changed, differences, digest
from cluster.machine.config import ClusterConfig, parse_settings
from cluster.machine.config_json import ConfigError

CONFIG = replace(ClusterConfig.local(3), kubelet={"maxPods": 50})


def test_what_is_not_named_stays() -> None:
    after = changed(CONFIG, parse_settings({"auto-compaction-retention": "1h", "dns_upstreams": ["9.9.9.9"]}))
    assert after == replace(CONFIG, auto_compaction_retention="1h", dns_upstreams=("9.9.9.9",))
    assert differences(CONFIG, after) == {"auto_compaction_retention": "1h", "dns_upstreams": ("9.9.9.9",)}
    assert changed(after, differences(after, CONFIG)) == CONFIG


def test_kubelets_are_opened_to_pods_while_the_cluster_runs() -> None:
    """metrics-server comes after the cluster; a proxy writes its firewall when it begins."""
    after = changed(CONFIG, parse_settings({"kubelet_open_to_pods": True}))
    assert after.kubelet_open_to_pods and digest(after) != digest(CONFIG)


def test_what_a_cluster_was_made_with_is_refused_unless_it_is_the_same() -> None:
    with pytest.raises(
        ConfigError, match=r"^pod_cidr, api_port: decided when a cluster is made; this one may change .*kubelet"
    ):
        changed(CONFIG, {"kubelet": {}, "pod_cidr": "10.1.0.0/16", "api_port": 7443})
    assert changed(CONFIG, {"pod_cidr": CONFIG.pod_cidr, "kubelet": {}}).kubelet == {}


def test_a_value_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="auto_compaction_retention"):
        changed(CONFIG, {"auto_compaction_retention": "soon"})


def test_every_changeable_setting_is_one() -> None:
    assert set(CHANGEABLE) <= {field.name for field in fields(ClusterConfig)}


def test_a_digest_is_of_what_may_change_however_it_was_read() -> None:
    assert digest(ClusterConfig.from_json(CONFIG.to_json())) == digest(CONFIG)
    assert digest(replace(CONFIG, machines=CONFIG.machines[:2])) == digest(CONFIG), "a worker less"
    assert digest(replace(CONFIG, max_pods=30)) != digest(CONFIG)


def test_a_setting_that_another_release_does_not_know_does_not_count_while_it_has_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = digest(CONFIG)
    monkeypatch.setattr("cluster.machine.changes.CHANGEABLE", [n for n in CHANGEABLE if n != "dns_upstreams"])
    assert digest(CONFIG) == now
