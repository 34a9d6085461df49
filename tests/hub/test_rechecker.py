"""The rechecker: each client is checked in time, the app's failures disconnect none, and a client that has gone is not kept."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from cartows.client.client import Client
from cartows.hub.rechecker import Rechecker

SOON, DEADLINE = 0.01, 10.0


class Connection:
    closing = False


class Stub:
    """What the rechecker needs of a client; ``checks`` counts how often it was checked."""

    def __init__(self, answer: Callable[[], bool] = lambda: True) -> None:
        self.id = "c1"
        self.connection = Connection()
        self.authorization = self
        self.checks = threading.Semaphore(0)
        self.expired = threading.Event()
        self.threads: set[str] = set()
        self.reason = ""
        self._answer = answer

    def is_valid(self) -> bool:
        self.threads.add(threading.current_thread().name)
        try:
            return self._answer()
        finally:
            self.checks.release()

    def expire(self, reason: str) -> None:
        self.reason = reason
        self.connection.closing = True
        self.expired.set()

    def await_checks(self, count: int) -> None:
        for _ in range(count):
            assert self.checks.acquire(timeout=DEADLINE)


@pytest.fixture
def rechecker() -> Iterator[Rechecker]:
    made = Rechecker(logging.getLogger("cartows.test"))
    yield made
    made.stop(DEADLINE)


def add(rechecker: Rechecker, client: Stub, every: float = SOON) -> None:
    rechecker.add(cast(Client, client), every)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "cartows-rechecker"]


def test_without_clients_there_is_no_thread(rechecker: Rechecker) -> None:
    assert threads() == []
    clients = [Stub() for _ in range(3)]
    for client in clients:
        add(rechecker, client, 100)
    assert threads() == ["cartows-rechecker"]


def test_each_client_is_checked_again_and_again_on_one_thread(rechecker: Rechecker) -> None:
    clients = [Stub() for _ in range(5)]
    for client in clients:
        add(rechecker, client)
    for client in clients:
        client.await_checks(5)
        assert client.threads == {"cartows-rechecker"}
        assert not client.expired.is_set()


def test_no_client_is_checked_before_its_time(rechecker: Rechecker) -> None:
    client = Stub()
    start = time.monotonic()
    add(rechecker, client, 0.2)
    client.await_checks(2)
    assert time.monotonic() - start >= 0.4


def test_the_client_that_is_due_first_is_checked_first_in_whichever_order_they_were_added(rechecker: Rechecker) -> None:
    late, early = Stub(), Stub()
    add(rechecker, late, 60)
    add(rechecker, early)
    early.await_checks(3)
    assert not late.checks.acquire(blocking=False)


def test_a_client_that_may_not_stay_is_disconnected_once_and_not_checked_again(rechecker: Rechecker) -> None:
    unwanted, other = Stub(lambda: False), Stub()
    add(rechecker, unwanted)
    add(rechecker, other)
    assert unwanted.expired.wait(DEADLINE)
    assert unwanted.reason
    unwanted.await_checks(1)
    other.checks = threading.Semaphore(0)
    other.await_checks(5)
    assert not unwanted.checks.acquire(blocking=False)
    assert not other.expired.is_set()


def test_a_client_that_is_closing_is_not_checked(rechecker: Rechecker) -> None:
    going, other = Stub(), Stub()
    going.connection.closing = True
    add(rechecker, going)
    add(rechecker, other)
    other.await_checks(5)
    assert not going.checks.acquire(blocking=False)


def test_a_lookup_that_fails_disconnects_no_client_and_is_tried_again(
    rechecker: Rechecker, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Callable[[], bool]] = [lambda: bool(1 / 0), lambda: True, lambda: bool(1 / 0), lambda: False]
    client, other = Stub(lambda: answers.pop(0)()), Stub()
    client.id = "c77"
    add(rechecker, client)
    add(rechecker, other)
    assert client.expired.wait(DEADLINE)
    assert answers == []
    other.await_checks(2)
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [("c77" in record.getMessage(), record.exc_info is not None) for record in logged] == [(True, True)] * 2


def test_a_disconnect_that_fails_does_not_affect_other_clients(rechecker: Rechecker, caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Stub):
        def expire(self, reason: str) -> None:
            raise OSError("stuck")

    stuck, other = Stuck(lambda: False), Stub()
    add(rechecker, stuck)
    add(rechecker, other)
    stuck.await_checks(2)
    other.await_checks(2)
    assert "stuck" in caplog.text


@pytest.mark.parametrize("closing", [True, False])
def test_a_client_that_has_gone_is_not_kept(rechecker: Rechecker, closing: bool) -> None:
    client = Stub()
    add(rechecker, client)
    client.await_checks(2)
    kept = weakref.ref(client)
    client.connection.closing = closing
    del client
    deadline = time.monotonic() + DEADLINE
    while kept() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(SOON)
    assert kept() is None


def test_stopping_waits_for_the_thread(rechecker: Rechecker) -> None:
    add(rechecker, Stub(), 100)
    rechecker.stop(DEADLINE)
    assert threads() == []
    rechecker.stop(DEADLINE)


def test_stopping_does_not_wait_for_a_lookup_that_hangs(rechecker: Rechecker) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hang() -> bool:
        inside.set()
        return go_on.wait(DEADLINE)

    client = Stub(hang)
    add(rechecker, client)
    assert inside.wait(DEADLINE)
    start = time.monotonic()
    rechecker.stop(0.05)
    assert time.monotonic() - start < DEADLINE / 2
    assert threads() == ["cartows-rechecker"]
    go_on.set()
    rechecker.stop(DEADLINE)
    assert threads() == []


def test_stopping_one_that_never_ran(rechecker: Rechecker) -> None:
    rechecker.stop(0)
    add(rechecker, Stub())
    rechecker.stop(DEADLINE)
    assert threads() == []


def test_stopping_on_its_own_thread_does_not_wait(rechecker: Rechecker) -> None:
    client = Stub()

    def stop() -> bool:
        rechecker.stop(DEADLINE)
        return True

    client._answer = stop
    add(rechecker, client)
    client.await_checks(1)
    rechecker.stop(DEADLINE)
    assert threads() == []


def test_a_thread_that_cannot_be_started_is_an_error_and_tried_again_later(
    rechecker: Rechecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            add(rechecker, Stub())
    client = Stub()
    add(rechecker, client)
    client.await_checks(2)
