"""Who a caller is, by its certificate."""

from __future__ import annotations

from cluster.machinery.mtls import groups_of


def test_groups_come_from_the_certificate() -> None:
    subject = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "c"),))
    assert groups_of({"subject": subject}) == {"a", "b"}
    assert groups_of(None) == set()
