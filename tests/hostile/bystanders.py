"""Well-behaved clients, which receive numbered events and ping now and then, and must not notice an attack."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import itertools
import threading
import time
from collections.abc import Callable

from tests.hostile.target import WAIT_LIMIT, AttackClient, Target, json_frame, open_client

# Publishes the event of that number over HTTP; returns the status.
Publish = Callable[[int], int]

EVENT = "hostile.tick"

# How often an event is published, and how often each client pings; seconds.
EVERY = 0.05
PING_EVERY = 0.2


@dataclasses.dataclass
class Report:
    """What the well-behaved clients observed."""

    clients: int
    published: int
    #: Events that did not come, came twice or out of order.
    lost: int
    #: Clients that the server closed.
    disconnected: int
    #: Pings without a pong.
    unanswered: int
    #: HTTP requests that were not answered with success, and the slowest that was, in seconds.
    http: int
    http_failed: int
    http_slowest: float
    #: Of events, from before the HTTP request that publishes to the client, in seconds.
    p99: float

    def problems(self, *, starved: bool = False) -> list[str]:
        """Return what went wrong; ``starved``: the server had no thread to read a request with."""
        found = []
        if not starved and (self.http_failed or not self.http):
            found.append(f"{self.http_failed} of {self.http} HTTP requests failed")
        if self.lost:
            found.append(f"{self.lost} of {self.published * self.clients} events were lost, repeated or out of order")
        if self.disconnected:
            found.append(f"{self.disconnected} of {self.clients} clients were closed")
        if self.unanswered:
            found.append(f"{self.unanswered} pings were not answered")
        return found


class Bystander:
    """One client, with a thread that reads; its pings are sent by another."""

    def __init__(self, target: Target, clock: dict[int, float]) -> None:
        self._client: AttackClient = open_client(target)
        self._messages = self._client.messages()
        hello = next(self._messages)
        assert hello["type"] == "connected", hello
        self._clock = clock
        self.numbers: list[int] = []
        self.latencies: list[float] = []
        self.pinged = self.ponged = 0
        self.leaving = self.disconnected = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="bystander")
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(TimeoutError):
            for message in self._messages:
                with self._changed:
                    if message["type"] == EVENT:
                        number = message["data"]["number"]
                        self.numbers.append(number)
                        if number in self._clock:
                            self.latencies.append(time.monotonic() - self._clock[number])
                    elif message["type"] == "pong":
                        self.ponged += 1
                    self._changed.notify_all()
        with self._changed:
            self.disconnected = not self.leaving
            self._changed.notify_all()

    def ping(self) -> None:
        if self._client.try_send(json_frame({"type": "ping"})):
            self.pinged += 1

    def await_all(self, published: int, wait_limit: float) -> None:
        """Wait for so many events, and for every pong."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.disconnected or (len(self.numbers) >= published and self.ponged >= self.pinged), timeout=wait_limit
            )

    def leave(self) -> None:
        self.leaving = True
        self._client.finish()
        self._thread.join()
        self._client.reset()


class Bystanders:
    """Several bystanders, connected for as long as the context lasts; ``report`` is available after it.

    Without ``publish`` the clients only ping, and the HTTP requests are for ``/``, with any answer below 500.
    """

    report: Report

    def __init__(self, target: Target, publish: Publish | None, count: int = 4, wait_limit: float = WAIT_LIMIT) -> None:
        self._target, self._publish, self._count, self._wait_limit = target, publish, count, wait_limit
        self._stopping = threading.Event()
        # When each event was published, by number.
        self._clock: dict[int, float] = {}
        self._answers: list[tuple[bool, float]] = []
        #: Events whose request was answered with success.
        self.accepted: list[int] = []
        self._clients: list[Bystander] = []

    def __enter__(self) -> Bystanders:
        try:
            for _ in range(self._count):
                self._clients.append(Bystander(self._target, self._clock))
        except BaseException:
            self._leave()
            raise
        self._threads = [threading.Thread(target=work, name=work.__name__) for work in (self._publish_all, self._ping_all)]
        for thread in self._threads:
            thread.start()
        return self

    def _publish_all(self) -> None:
        number = 0
        while not self._stopping.is_set():
            began = self._clock[number] = time.monotonic()
            try:
                status = self._target.http("GET", "/") if self._publish is None else self._publish(number)
                fine = status < 500 if self._publish is None else status == 200
            except (OSError, http.client.HTTPException):
                fine = False
            self._answers.append((fine, time.monotonic() - began))
            if fine and self._publish is not None:
                self.accepted.append(number)
            number += 1
            self._stopping.wait(max(0.0, EVERY - (time.monotonic() - began)))

    def _ping_all(self) -> None:
        while not self._stopping.wait(PING_EVERY):
            for client in self._clients:
                client.ping()

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.await_all(len(self.accepted), self._wait_limit)
        self._leave()
        self.report = self._make_report()

    def _leave(self) -> None:
        for client in self._clients:
            client.leave()

    def _make_report(self) -> Report:
        latencies = sorted(each for client in self._clients for each in client.latencies)
        # An event whose request failed may have been published or not.
        certain = set(self.accepted)
        received = [[number for number in client.numbers if number in certain] for client in self._clients]
        return Report(
            clients=len(self._clients),
            published=len(self.accepted),
            lost=sum(_misses(numbers, self.accepted) for numbers in received),
            disconnected=sum(client.disconnected for client in self._clients),
            unanswered=sum(max(0, client.pinged - client.ponged) for client in self._clients),
            http=len(self._answers),
            http_failed=sum(not fine for fine, _ in self._answers),
            http_slowest=max((took for fine, took in self._answers if fine), default=0.0),
            p99=latencies[int((len(latencies) - 1) * 0.99)] if latencies else 0.0,
        )


def _misses(found: list[int], wanted: list[int]) -> int:
    """Count the numbers that are missing, repeated or out of order."""
    missing = len(set(wanted) - set(found))
    return missing + sum(later <= earlier for earlier, later in itertools.pairwise(found))
