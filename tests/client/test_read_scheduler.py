"""The read_scheduler: readers wake a few at a time, whatever number of peers speaks or goes at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from cartows.client.read_scheduler import _SLOTS, ReadScheduler
from cartows.client.transport import PlainTransport

pytestmark = pytest.mark.skipif(not ReadScheduler.available, reason="no epoll here")


class CountingSlots(threading.Semaphore):
    """Remember how many were out at once."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.most = self.out = self.given = 0
        self.guard = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        taken = super().acquire(blocking, timeout)
        with self.guard:
            self.out += 1
            self.given += 1
            self.most = max(self.most, self.out)
        return taken

    def release(self, n: int = 1) -> None:
        with self.guard:
            self.out -= n
        super().release(n)


@pytest.fixture
def read_scheduler() -> Iterator[ReadScheduler]:
    made = ReadScheduler()
    made._slots = CountingSlots(_SLOTS)
    made.start()
    yield made
    made.stop()


def reader(read_scheduler: ReadScheduler, sock: socket.socket, got: list[bytes]) -> None:
    transport = PlainTransport(sock, read_scheduler)
    while data := transport.receive(4096):
        got.append(data)
    transport.close()


def test_a_crowd_that_goes_at_once_is_let_through_a_few_at_a_time(read_scheduler: ReadScheduler) -> None:
    pairs = [socket.socketpair() for _ in range(200)]
    got: list[bytes] = []
    threads = [threading.Thread(target=reader, args=(read_scheduler, mine, got)) for mine, _ in pairs]
    for thread in threads:
        thread.start()
    for _, theirs in pairs:
        theirs.sendall(b"hello")
    for _, theirs in pairs:
        theirs.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(got) == 200
    slots = read_scheduler._slots
    assert isinstance(slots, CountingSlots)
    assert 1 <= slots.most <= _SLOTS
    assert slots.out == 0
    assert read_scheduler._turns == {}


def test_a_reader_waits_its_turn_again_though_there_is_more_to_read(read_scheduler: ReadScheduler) -> None:
    mine, theirs = socket.socketpair()
    got: list[bytes] = []
    theirs.sendall(b"x" * 10_000)
    theirs.close()
    thread = threading.Thread(target=reader, args=(read_scheduler, mine, got))
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert list(map(len, got)) == [4096, 4096, 1808]
    slots = read_scheduler._slots
    assert isinstance(slots, CountingSlots)
    assert slots.given == 4, "one for each read, the end's included"


def test_a_reader_that_is_slow_with_its_message_holds_up_nobody(read_scheduler: ReadScheduler) -> None:
    pairs = [socket.socketpair() for _ in range(_SLOTS + 5)]
    release, handled = threading.Event(), threading.Semaphore(0)

    def slow_reader(sock: socket.socket) -> None:
        transport = PlainTransport(sock, read_scheduler)
        assert transport.receive(100) == b"x"
        handled.release()
        release.wait(20)
        transport.close()

    threads = [threading.Thread(target=slow_reader, args=(mine,)) for mine, _ in pairs]
    for thread in threads:
        thread.start()
    for _, theirs in pairs:
        theirs.sendall(b"x")
    # More of them than there are slots are in their handlers at once.
    for _ in pairs:
        assert handled.acquire(timeout=10)
    release.set()
    for thread in threads:
        thread.join(10)
    for _, theirs in pairs:
        theirs.close()


def test_the_end_of_a_socket_wakes_its_reader_and_the_thread_outlives_the_last_of_them() -> None:
    read_scheduler = ReadScheduler()
    read_scheduler.start()
    mine, theirs = socket.socketpair()
    thread = threading.Thread(target=reader, args=(read_scheduler, mine, []))
    thread.start()
    while not read_scheduler._turns:
        threading.Event().wait(0.001)
    read_scheduler.stop()
    assert read_scheduler._thread is not None
    assert read_scheduler._thread.is_alive(), "a reader is still asleep"
    mine.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    read_scheduler._thread.join(10)
    assert not read_scheduler._thread.is_alive()
    theirs.close()


def test_without_its_thread_readers_block_on_their_own_sockets() -> None:
    mine, theirs = socket.socketpair()
    got: list[bytes] = []
    thread = threading.Thread(target=reader, args=(ReadScheduler(), mine, got))
    thread.start()
    theirs.sendall(b"hello")
    theirs.close()
    thread.join(10)
    assert got == [b"hello"]


def test_a_turnstile_that_cannot_start_leaves_nothing_behind_and_may_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read_scheduler = ReadScheduler()

    def fail() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("cartows.client.read_scheduler.os.pipe", fail)
    with pytest.raises(OSError, match="Too many"):
        read_scheduler.start()
    assert not read_scheduler.wait(0), "readers must not sleep where nobody wakes them"
    monkeypatch.undo()
    read_scheduler.start()
    read_scheduler.stop()
