"""Who may do what: RBAC over an in-memory snapshot, and the Node authorizer beside it.

`RbacRules` is pure; `RbacAuthorizer` feeds it (and the node graph) from store watches. A grant is answered from
memory. A denial is answered only by a snapshot as new as the store at the time of asking: a role bound a moment ago
counts, and a kubelet that has just seen a pod may read its secrets. `system:masters` needs no rule.

Source: Kubernetes' RBAC and Node authorizers (plugin/pkg/auth/authorizer).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cluster.api import errors, selectors
from cluster.registry import nodegraph
from cluster.registry.codec import Codec
from cluster.registry.context import UserInfo
from cluster.registry.core import from_store_error
from cluster.registry.feed import Feed, split_key
from cluster.registry.nodegraph import GRAPH_PREFIXES, NodeGraph
from cluster.registry.store import Store, prefix_end
from cluster.registry.types import Attributes, Decision, Stored

Object = dict[str, Any]
Subject = tuple[str, str]

RBAC_PREFIX = b"/registry/rbac.authorization.k8s.io/"
MASTERS = "system:masters"

_ALLOWED = Decision(True)
_WAIT_S = 10.0
_REMEMBERED = 10_000
_CATCH_UP_S = 1.5


def account_name(namespace: str, name: str) -> str:
    return f"system:serviceaccount:{namespace}:{name}"


def rule_allows(rule: Object, a: Attributes) -> bool:
    """One PolicyRule against one request."""
    verbs = rule.get("verbs") or ()
    if "*" not in verbs and a.verb not in verbs:
        return False
    if not a.is_resource:
        return any(url_matches(u, a.path) for u in rule.get("nonResourceURLs") or ())
    groups = rule.get("apiGroups") or ()
    if "*" not in groups and a.group not in groups:
        return False
    resources = rule.get("resources") or ()
    wanted = f"{a.resource}/{a.subresource}" if a.subresource else a.resource
    by_subresource = bool(a.subresource) and f"*/{a.subresource}" in resources
    if wanted not in resources and "*" not in resources and not by_subresource:
        return False
    names = rule.get("resourceNames")
    return not names or a.name in names


def url_matches(pattern: str, path: str) -> bool:
    """Of nonResourceURLs: the path itself, `*`, or all that begins as the pattern does before its last `*`."""
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))


class RbacRules:
    """Roles and bindings by key, bindings indexed by subject."""

    def __init__(self) -> None:
        self._allowed: set[tuple[object, ...]] = set()
        """What rules allow whatever the object's name is; forgotten with every change."""
        self._roles: dict[tuple[str, str], Object] = {}
        self._bindings: dict[tuple[str, str], Object] = {}
        self._by_subject: dict[Subject, dict[tuple[str, str], None]] = {}

    def put(self, plural: str, namespace: str, name: str, obj: Object) -> None:
        self._allowed.clear()
        if plural in ("roles", "clusterroles"):
            self._roles[namespace, name] = obj
            return
        self._drop_binding((namespace, name))
        self._bindings[namespace, name] = obj
        for subject in _subjects(obj, namespace):
            self._by_subject.setdefault(subject, {})[namespace, name] = None

    def delete(self, plural: str, namespace: str, name: str) -> None:
        self._allowed.clear()
        if plural in ("roles", "clusterroles"):
            self._roles.pop((namespace, name), None)
        else:
            self._drop_binding((namespace, name))

    def clear(self) -> None:
        self._allowed.clear()
        self._roles.clear()
        self._bindings.clear()
        self._by_subject.clear()

    def _drop_binding(self, key: tuple[str, str]) -> None:
        old = self._bindings.pop(key, None)
        for subject in _subjects(old, key[0]) if old else ():
            held = self._by_subject.get(subject, {})
            held.pop(key, None)
            if not held:
                self._by_subject.pop(subject, None)

    def rules_for(self, user: UserInfo, namespace: str) -> Iterator[Object]:
        """Every rule that binds the user in the namespace; "" is cluster scope."""
        subjects: list[Subject] = [("User", user.name), *(("Group", g) for g in user.groups)]
        for subject in subjects:
            for where, name in self._by_subject.get(subject, ()):
                if where in ("", namespace):
                    yield from self._rules_of(self._bindings[where, name].get("roleRef") or {}, where)

    def _rules_of(self, ref: Object, namespace: str) -> Iterable[Object]:
        return self.role(ref, namespace) or ()

    def role(self, ref: Mapping[str, Any], namespace: str) -> list[Object] | None:
        """The rules of the role that a roleRef in `namespace` names."""
        role = self._roles.get((namespace if ref.get("kind") == "Role" else "", ref.get("name", "")))
        if role is None:
            return None
        rules = role.get("rules") or []
        aggregation = role.get("aggregationRule")
        return [*rules, *self._aggregated(aggregation)] if aggregation else rules

    def _aggregated(self, aggregation: Object) -> Iterator[Object]:
        wanted = [selectors.from_label_selector(s) for s in aggregation.get("clusterRoleSelectors") or ()]
        for (namespace, _), role in self._roles.items():
            if not namespace and any(s.matches(role["metadata"].get("labels")) for s in wanted):
                yield from role.get("rules") or ()

    def allows(self, user: UserInfo, a: Attributes) -> bool:
        asked = (user.name, user.groups, a.verb, a.group, a.resource, a.subresource, a.namespace, a.path)
        if asked in self._allowed:
            return True
        rule = next((r for r in self.rules_for(user, a.namespace) if rule_allows(r, a)), None)
        if rule is not None and not rule.get("resourceNames"):
            if len(self._allowed) >= _REMEMBERED:
                self._allowed.clear()
            self._allowed.add(asked)
        return rule is not None


def _subjects(binding: Object, namespace: str) -> list[Subject]:
    out: list[Subject] = []
    for s in binding.get("subjects") or ():
        if s.get("kind") == "ServiceAccount":
            out.append(("User", account_name(s.get("namespace") or namespace, s.get("name", ""))))
        elif s.get("kind") in ("User", "Group"):
            out.append((s["kind"], s.get("name", "")))
    return out


class _RulesView:
    """The store's RBAC keys as RbacRules, with the revision of each key to tell how new the view is."""

    def __init__(self) -> None:
        self.rules = RbacRules()
        self.revisions: dict[bytes, int] = {}

    def reset(self, prefix: bytes) -> None:
        self.rules.clear()
        self.revisions.clear()

    def put(self, key: bytes, stored: Stored) -> None:
        self.rules.put(*split_key(key, RBAC_PREFIX), stored.obj)
        self.revisions[key] = stored.revision

    def delete(self, key: bytes) -> None:
        self.rules.delete(*split_key(key, RBAC_PREFIX))
        self.revisions.pop(key, None)


class RbacAuthorizer:
    """`run` keeps the snapshot; until it is loaded, and when it cannot be, requests get 503 after a while.

    `codec` must be able to read what the cluster encrypts, if that includes what is followed here.
    """

    def __init__(self, store: Store, codec: Codec | None = None) -> None:
        self._store = store
        self._view = _RulesView()
        self._graph = NodeGraph()
        codec = codec or Codec()
        self._rules_feed = Feed(store, (RBAC_PREFIX,), codec, self._view)
        self._graph_feed = Feed(store, GRAPH_PREFIXES, codec, self._graph)
        self._nodes_ask = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rules_feed.run())
            await self._nodes_ask.wait()  # only a process that meets node identities pays for their graph
            group.create_task(self._graph_feed.run())

    def health(self) -> dict[str, object]:
        return {"rbac": "ok" if self._rules_feed.synced else "not loaded"}

    async def authorize(self, user: UserInfo, attributes: Attributes) -> Decision:
        """Raises 503 when the rules cannot be had."""
        if MASTERS in user.groups:
            return _ALLOWED
        node = user.node_name
        if node and attributes.is_resource:
            decision = await self._authorize_node(node, attributes)
            if decision.allowed:
                return decision
            return decision if not await self._by_rules(user, attributes) else _ALLOWED
        return _ALLOWED if await self._by_rules(user, attributes) else Decision(False)

    async def _by_rules(self, user: UserInfo, attributes: Attributes) -> bool:
        await _loaded(self._rules_feed)
        if self._view.rules.allows(user, attributes):
            return True
        if await self._current():
            return False
        return self._view.rules.allows(user, attributes)

    async def rules_of(self, user: UserInfo, namespace: str) -> list[Object]:
        await _loaded(self._rules_feed)
        return list(self._view.rules.rules_for(user, namespace))

    async def role_rules(self, ref: Mapping[str, Any], namespace: str) -> list[Object] | None:
        await _loaded(self._rules_feed)
        found = self._view.rules.role(ref, namespace)
        if found is None and await self.refresh():
            found = self._view.rules.role(ref, namespace)
        return found

    def allows_now(self, user: UserInfo, attributes: Attributes) -> bool:
        return MASTERS in user.groups or self._view.rules.allows(user, attributes)

    async def refresh(self) -> bool:
        return not await self._current()

    async def _current(self) -> bool:
        """Whether the view was already as new as the store; if not, it is on return, but for a store that is very
        slow.
        """
        try:
            found = await self._store.range(RBAC_PREFIX, prefix_end(RBAC_PREFIX), keys_only=True)
        except Exception as e:
            mapped = from_store_error(e)
            if mapped is None:
                raise
            raise mapped from e
        newest = {kv.key: kv.mod_revision for kv in found.kvs}

        def caught_up() -> bool:
            have = self._view.revisions
            return all(have.get(k, 0) >= r for k, r in newest.items()) and all(k in newest for k in have)

        if caught_up():
            return True
        await self._rules_feed.until(caught_up, _CATCH_UP_S)
        return False

    async def _authorize_node(self, node: str, attributes: Attributes) -> Decision:
        """A denial waits for the graph to reach the present: the kubelet may know of a pod before it does."""
        static = nodegraph.static_decision(node, attributes)
        if static is not None:
            return static
        self._nodes_ask.set()
        await _loaded(self._graph_feed)
        decision = self._graph.decide(node, attributes)
        if not decision.allowed:
            revision = await self._store.read_index(tell_watches=True)
            await self._graph_feed.until(lambda: self._graph_feed.revision >= revision, _CATCH_UP_S)
            decision = self._graph.decide(node, attributes)
        return decision


async def _loaded(feed: Feed) -> None:
    """Raises 503 when it is not loaded in time."""
    if feed.synced:
        return
    try:
        async with asyncio.timeout(_WAIT_S):
            await feed.loaded.wait()
    except TimeoutError as e:
        raise errors.service_unavailable("the authorizer has not loaded its rules yet") from e
