"""Scenario C must not happen: pods with ndots:5 look names up by the thousand, retry storms on top, every answer right.

Real sockets between network namespaces (tests/support/network_lab.py); the pods' resolvers are played here, because a
busy box says nothing about time: what is asserted is that each look-up took one question, that no answer was wrong and
that nothing was left without one.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from dnslib import DNSRecord

from tests.support.network_lab import DNS, PODS, Lab, dns, eventually, inside, running_lab, service

pytestmark = pytest.mark.root
NAMES = {f"s{number}.shop": f"10.96.2.{number}" for number in range(1, 101)}
"""name.namespace -> its ClusterIP: with ndots:5 the second name of the search path, but for autopath."""
SEARCH = ("default.svc.cluster.local", "svc.cluster.local", "cluster.local", "")
LOOKUPS_PER_S = 4000
SECONDS = 3
IN_FLIGHT = 64
SO_RCVBUFFORCE = 33
RETRY_S = 5.0
ANSWER_S = 60.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab() as made:
        for name, (machine, address) in PODS.items():
            made.api.put(
                "pods",
                {
                    "metadata": {"name": name, "namespace": "default"},
                    "spec": {"nodeName": machine},
                    "status": {"podIP": address, "phase": "Running"},
                },
            )
        for name, address in NAMES.items():
            obj = service(name.partition(".")[0], address)
            obj["metadata"]["namespace"] = "shop"
            made.api.put("services", obj)
        made.wait()
        for name in PODS:
            eventually(lambda n=name: _first_round(n) is not None, "search paths are not followed", 30.0)  # type: ignore[misc]
        yield made


def _first_round(pod: str) -> str | None:
    name = next(iter(NAMES))
    answer = dns(pod, f"{name}.{SEARCH[0]}")
    return str(answer.short()) if answer.rr else None


@dataclass
class _LookUp:
    name: str
    step: int = 0
    since: float = field(default_factory=time.monotonic)
    sent: float = 0.0

    @property
    def question(self) -> str:
        return f"{self.name}.{SEARCH[self.step]}".rstrip(".") + "."


class Resolver:
    """A pod's resolver with ndots:5 and many look-ups at once. Each question goes out `storm` times, as from clients
    that do not wait."""

    def __init__(self, pod: str, storm: int = 1) -> None:
        self._sock = inside(pod, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._sock.connect((DNS, 53))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        self._sock.settimeout(0.05)
        self._storm = storm
        self.questions = 0
        self.wrong: list[str] = []
        self.unanswered = 0

    def look_up(self, names: Sequence[str], per_s: float) -> None:
        started = time.monotonic()
        waiting: dict[int, _LookUp] = {}
        sent = 0
        while sent < len(names) or waiting:
            due = min(len(names), int((time.monotonic() - started) * per_s) + 1)
            while sent < due and len(waiting) < IN_FLIGHT:
                waiting[sent & 0xFFFF] = _LookUp(names[sent])
                self._ask(sent & 0xFFFF, waiting[sent & 0xFFFF])
                sent += 1
            answer = self._receive()
            if answer is None:
                self._ask_again(waiting)
            else:
                self._take(answer, waiting)
        self._sock.close()

    def _take(self, answer: DNSRecord, waiting: dict[int, _LookUp]) -> None:
        number = answer.header.id
        pending = waiting.get(number)
        if pending is None or str(answer.q.qname) != pending.question:
            return  # a storm's other answers
        if answer.header.rcode == 3 and pending.step + 1 < len(SEARCH):
            waiting[number] = _LookUp(pending.name, pending.step + 1)
            self._ask(number, waiting[number])
            return
        del waiting[number]
        if [str(rr.rdata) for rr in answer.rr if rr.rtype == 1] != [NAMES[pending.name]]:
            self.wrong.append(f"{pending.name}: {answer.header.rcode} {answer.short()}")

    def _ask_again(self, waiting: dict[int, _LookUp]) -> None:
        """As resolv.conf's `timeout:5` has it: what the kernel dropped because a queue was full is asked again."""
        now = time.monotonic()
        for number, pending in list(waiting.items()):
            if now - pending.since > ANSWER_S:
                del waiting[number]
                self.unanswered += 1
            elif now - pending.sent > RETRY_S:
                self._send(number, pending)

    def _ask(self, number: int, pending: _LookUp) -> None:
        self.questions += 1
        for _ in range(self._storm):
            self._send(number, pending)

    def _send(self, number: int, pending: _LookUp) -> None:
        question = DNSRecord.question(pending.question)
        question.header.id = number
        pending.sent = time.monotonic()
        self._sock.send(bytes(question.pack()))

    def _receive(self) -> DNSRecord | None:
        try:
            return DNSRecord.parse(self._sock.recv(4096))
        except TimeoutError:
            return None


def _run(resolvers: Sequence[Resolver], count: int, per_s: float) -> None:
    names = list(NAMES)
    work = [[names[(i * 7 + r) % len(names)] for i in range(count)] for r in range(len(resolvers))]
    threads = [
        threading.Thread(target=resolver.look_up, args=(asked, per_s))
        for resolver, asked in zip(resolvers, work, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("storm", [1, 4])
def test_every_look_up_is_answered_rightly_in_one_round(lab: Lab, storm: int) -> None:
    resolvers = [Resolver(pod, storm) for pod in PODS]
    each = LOOKUPS_PER_S * SECONDS // len(resolvers)
    _run(resolvers, each, LOOKUPS_PER_S / len(resolvers))
    assert [r.wrong for r in resolvers] == [[], [], []]
    assert [r.unanswered for r in resolvers] == [0, 0, 0]
    assert [r.questions for r in resolvers] == [each] * 3, "a look-up took more than one question"


def test_a_flood_is_shed_and_the_server_lives(lab: Lab) -> None:
    """Nobody reads the answers of 200,000 questions; whoever asks afterwards is answered."""
    sock = inside("a1", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.connect((DNS, 53))
        packed = bytes(DNSRecord.question(_LookUp(next(iter(NAMES))).question).pack())
        for _ in range(200_000):
            sock.send(packed)
    asker = Resolver("a2")
    _run([asker], 100, 1000.0)
    assert (asker.wrong, asker.unanswered) == ([], 0)
