"""How a VM becomes a machine of the cluster: a server on each control plane, and the side that joins.

 machine                                       control plane, port `join_port`
 {"op":"ca"}\\n                           -->   {"ca"}       not verified yet: the joiner compares the CA with its pin
 {"op":"join","machine","ip","zone",
  "token","requests"}\\n                  -->   {"certs","files","cluster","founding"}      now under the pinned CA
 {"op":"renew","requests"}\\n             -->   {"certs","files"}    under the machine's own certificate of before
                                               {"error"} when refused

One JSON object a line, TLS, a connection for each. IO. Keys are made on the machine and stay there; what travels to a
control plane besides its certificates is the CA's key and the shared secrets, so that any of them can admit others.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from cluster.machine import api_nodes, identity
from cluster.machine.api_nodes import Known
from cluster.machine.config import ClusterConfig, MachineSpec, save_cluster
from cluster.machine.files import make_private_dir, write_atomic
from cluster.machine.join_ledger import Admission, JoinLedger, Ticket, ca_pin, join_file, only_certificate
from cluster.machine.machine_config import DEFAULT_ZONE, MachineConfig, save_machine
from cluster.machine.pki import PkiError, certificate_names, machine_address, made_at, new_request
from cluster.machine.rejoin import caller, shown

log = logging.getLogger(__name__)

LINE_BYTES = 1 << 20
ANSWER_S = 30.0
AUTHORITY_FILES = ("ca.key", "join.json")
"""What a control plane gets besides when it joins, to admit machines itself."""


class JoinRefused(RuntimeError):
    """The control plane says no, or is not the one that the ticket means."""


# -- the control plane's side ----------------------------------------------------------------------------------------
class JoinServer:
    """A part of sk8-machine on each control plane of a cluster of VMs."""

    def __init__(
        self, config: ClusterConfig, machine: MachineConfig, known: Callable[[str], Awaitable[Known]] | None = None
    ) -> None:
        """`known`: what is known of a name. Raises OSError, TimeoutError, ValueError. By default the API says."""
        self._known = known or partial(api_nodes.known, config, machine)
        self._config = config
        self._machine = machine
        self._authority = identity.Authority(config)
        self._ledger = JoinLedger(config)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(machine.pki / "ca.crt"))
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.load_cert_chain(machine.pki / "node.crt", machine.pki / "node.key")

    async def run(self) -> None:
        endpoint = (self._machine.ip, self._config.join_port)
        server = await asyncio.start_server(self._serve, *endpoint, ssl=self.context, limit=LINE_BYTES)
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = orjson.loads(await asyncio.wait_for(reader.readline(), ANSWER_S))
            answer = await self._answer(request, writer)
        except (OSError, TimeoutError, ValueError, AttributeError) as e:
            log.info("a request to join could not be read: %s", e)
            answer = {"error": "the request is not JSON"}
        try:
            writer.write(orjson.dumps(answer) + b"\n")
            await writer.drain()
        except OSError as e:
            log.info("a machine did not wait for its answer: %s", e)
        finally:
            writer.close()

    async def _answer(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> dict[str, Any]:
        source = writer.get_extra_info("peername")[0]
        try:
            if request.get("op") == "ca":
                return {"ca": await asyncio.to_thread((self._config.pki / "ca.crt").read_text)}
            requests = {str(n): str(pem).encode() for n, pem in dict(request["requests"]).items()}
            if request.get("op") == "renew":
                machine, forgotten_at = await self._renews(writer)
                return _answer_of(await asyncio.to_thread(self._authority.reply, machine, requests, forgotten_at))
            if request.get("op") == "join":
                return await self._join(request, requests, source)
            return {"error": f"unknown request {request.get('op')!r}"}
        except (PkiError, KeyError, TypeError, ValueError) as e:
            log.warning("%s may not join: %s", source, e)
            return {"error": str(e)}

    async def _renews(self, writer: asyncio.StreamWriter) -> tuple[MachineSpec, float]:
        """The machine that asks, by its certificate, and when it was last forgotten: a control plane, or a worker,
        wherever it joined, whose Node is there with the certificate's address (which it cannot choose; a name that was
        freed and joined again has another) and that was not forgotten since the certificate was made. This control
        plane's ledger proves neither: others hear of no change to theirs, so an API that is silent renews nothing.
        Raises PkiError."""
        name, certificate = caller(writer), shown(writer)
        plane = next((m for m in self._config.control_planes if m.name == name), None)
        if plane is not None:
            return plane, 0.0
        if name and certificate is not None:
            try:
                known = await self._known(name)
            except (OSError, TimeoutError, ValueError) as e:
                raise PkiError(f"whether {name} is a node cannot be told now: {str(e) or 'the API is silent'}") from e
            address = machine_address(certificate)
            if address in known.addresses and made_at(certificate) > known.forgotten:
                return MachineSpec(name, address, False), known.forgotten
        raise PkiError("only a machine that joined and is not forgotten may renew, under the certificate it has")

    async def _join(self, request: Mapping[str, Any], requests: Mapping[str, bytes], source: str) -> dict[str, Any]:
        asked = MachineSpec(
            str(request["machine"]), str(request["ip"]), False, str(request.get("zone") or DEFAULT_ZONE)
        )
        problems = with_machine(self._config, asked).problems()
        if problems:
            raise PkiError("; ".join(problems))
        token = str(request["token"])
        admitted = await asyncio.to_thread(self._ledger.admit, token, asked, requests, source, time.time())
        log.info("machine %s joins from %s", admitted.spec.name, source)
        own = {name: requests[name] for name in certificate_names(admitted.spec)}
        return await asyncio.to_thread(self._welcome, admitted, own, await self._forgotten_at(admitted.spec))

    async def _forgotten_at(self, machine: MachineSpec) -> float:
        """0 also when the API is silent, as at the birth of a cluster: then nobody was forgotten a moment ago."""
        if machine.control_plane:
            return 0.0
        try:
            return (await self._known(machine.name)).forgotten
        except (OSError, TimeoutError, ValueError) as e:
            log.info("whether a machine %s was forgotten cannot be told: %s", machine.name, str(e) or "no answer")
            return 0.0

    def _welcome(self, admitted: Admission, own: Mapping[str, bytes], forgotten_at: float) -> dict[str, Any]:
        reply = self._authority.reply(admitted.spec, own, forgotten_at)
        if admitted.spec.control_plane:
            reply = replace(reply, files=reply.files | self._authority_files())
        return _answer_of(reply) | {
            "cluster": orjson.loads(with_machine(self._config, admitted.spec).to_json()),
            "machine": admitted.spec.name,
            "founding": admitted.founding,
        }

    def _authority_files(self) -> dict[str, bytes]:
        return {"ca.key": (self._config.pki / "ca.key").read_bytes(), "join.json": self._ledger.for_another()}


def with_machine(config: ClusterConfig, spec: MachineSpec) -> ClusterConfig:
    """The configuration as a machine has it: the control planes, and itself."""
    planes = config.control_planes
    if any(m.ip == spec.ip for m in planes):
        return replace(config, machines=tuple(replace(m, zone=spec.zone) if m.ip == spec.ip else m for m in planes))
    return replace(config, machines=(*planes, spec))


# -- the machine's side ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Joiner:
    """Who wants to join. `capacity`: what this machine offers, over what the cluster's configuration says."""

    name: str
    ip: str
    zone: str
    base: Path
    capacity: Mapping[str, Any]


async def join(ticket: Ticket, joiner: Joiner, timeout_s: float = ANSWER_S) -> MachineConfig:
    """Admitted, with everything on disk that sk8-machine needs. Idempotent until it is done: an answer that was lost is
    asked for again with the same keys. Raises JoinRefused, or OSError and TimeoutError when nobody answers."""
    host, _, port = ticket.endpoint.rpartition(":")
    endpoint = (host, int(port))
    ca = await _pinned_ca(endpoint, ticket.pin, timeout_s)
    requests, keys = await asyncio.to_thread(_pending, joiner)
    asked = {"op": "join", "machine": joiner.name, "ip": joiner.ip, "zone": joiner.zone, "token": ticket.token}
    context = ssl.create_default_context(cadata=ca)
    answer = await _ask(endpoint, context, asked | {"requests": requests}, timeout_s)
    return await asyncio.to_thread(_install, joiner, answer, requests, keys)


async def renew(config: ClusterConfig, machine: MachineConfig, timeout_s: float = ANSWER_S) -> None:
    """New certificates by the ones that are there. Raises JoinRefused, OSError, TimeoutError."""
    await asyncio.to_thread(identity.settle_keys, machine)
    ca, cert, key = (str(machine.pki / name) for name in ("ca.crt", "node.crt", "node.key"))
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(cert, key)
    made = {n: new_request(n) for n in certificate_names(MachineSpec(machine.name, machine.ip, machine.control_plane))}
    request = identity.JoinRequest(machine.name, "", {}, {n: key for n, (key, _) in made.items()})
    asked = {"op": "renew", "requests": {n: pem.decode() for n, (_, pem) in made.items()}}
    failure: Exception = JoinRefused("there is no control plane to ask")
    for plane in config.control_planes:
        try:
            answer = await _ask((plane.ip, config.join_port), context, asked, timeout_s)
        except (JoinRefused, OSError, TimeoutError) as e:
            failure = e
            continue
        await asyncio.to_thread(identity.install, machine, request, _reply_of(answer))
        return
    raise failure


async def _pinned_ca(endpoint: tuple[str, int], pin: str, timeout_s: float) -> str:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # nothing secret is said before the pin is checked
    shown = str((await _ask(endpoint, context, {"op": "ca"}, timeout_s)).get("ca"))
    try:
        ca = only_certificate(shown.encode())  # the pin is of one; a second would be trusted beside it
    except ValueError as e:
        raise JoinRefused(f"{endpoint[0]} did not show one CA certificate: {e}") from e
    found = ca_pin(ca)
    if found != pin:
        raise JoinRefused(
            f"the cluster at {endpoint[0]} has the CA {found}, not {pin}: another cluster, or somebody between"
        )
    return ca.decode()


async def _ask(
    endpoint: tuple[str, int], context: ssl.SSLContext, request: Mapping[str, Any], timeout_s: float
) -> dict[str, Any]:
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(*endpoint, ssl=context, limit=LINE_BYTES)
        try:
            writer.write(orjson.dumps(request) + b"\n")
            line = await reader.readline()
        finally:
            writer.close()
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError as e:
        raise ConnectionError(f"{endpoint[0]}:{endpoint[1]} sent no whole answer") from e
    if not isinstance(answer, dict) or "error" in answer:
        raise JoinRefused(str(answer.get("error") if isinstance(answer, dict) else answer))
    return answer


def _pending(joiner: Joiner) -> tuple[dict[str, str], dict[str, str]]:
    """Signing requests for all there may be (the control plane says which role this machine has), and their keys."""
    file = join_file(make_private_dir(joiner.base))
    if not file.exists():
        names = certificate_names(MachineSpec(joiner.name, joiner.ip, True))
        made = {name: new_request(name) for name in names}
        parts = {"requests": {n: r.decode() for n, (_, r) in made.items()}}
        write_atomic(file, orjson.dumps(parts | {"keys": {n: k.decode() for n, (k, _) in made.items()}}))
    raw = orjson.loads(file.read_bytes())
    return raw["requests"], raw["keys"]


def _install(
    joiner: Joiner, answer: Mapping[str, Any], requests: Mapping[str, str], keys: Mapping[str, str]
) -> MachineConfig:
    """cluster.json comes last: without it this is no machine, and the next join begins again."""
    name = str(answer["machine"])
    cluster = ClusterConfig.from_json(orjson.dumps(answer["cluster"]))
    cluster = replace(cluster, base_dir=str(joiner.base), **joiner.capacity)
    machine = cluster.first_machine(name) if answer["founding"] else cluster.machine(name)
    reply = _reply_of(answer)
    make_private_dir(machine.disk)
    made = identity.JoinRequest(name, "", {}, {n: keys[n].encode() for n in reply.certs})
    if machine.control_plane:
        _install_authority(cluster, reply)
    identity.install(machine, made, replace(reply, files=_without(reply.files, AUTHORITY_FILES)))
    save_machine(machine)
    save_cluster(cluster)
    join_file(joiner.base).unlink()
    return machine


def _install_authority(cluster: ClusterConfig, reply: identity.JoinReply) -> None:
    make_private_dir(cluster.pki)
    for name, data in reply.files.items():
        write_atomic(cluster.pki / Path(name).name, data)
    identity.Authority(cluster).create()  # the administrator's certificate, of this machine's own


def _without(files: Mapping[str, bytes], names: tuple[str, ...]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name not in names}


def _answer_of(reply: identity.JoinReply) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(reply.to_json())
    return answer


def _reply_of(answer: Mapping[str, Any]) -> identity.JoinReply:
    return identity.JoinReply.from_json(orjson.dumps({part: answer[part] for part in ("certs", "files")}))
