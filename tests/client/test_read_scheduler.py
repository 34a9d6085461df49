"""The read scheduler: readers wake a few at a time, however many peers send or close at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from cartows.client.read_scheduler import _PERMITS, ReadScheduler
from cartows.client.transport import PlainTransport

pytestmark = pytest.mark.skipif(not ReadScheduler.available, reason="no epoll here")


class CountingPermits(threading.Semaphore):
    """Count how many permits are taken at once."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.max_taken = self.taken = self.total = 0
        self.guard = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        acquired = super().acquire(blocking, timeout)
        with self.guard:
            self.taken += 1
            self.total += 1
            self.max_taken = max(self.max_taken, self.taken)
        return acquired

    def release(self, n: int = 1) -> None:
        with self.guard:
            self.taken -= n
        super().release(n)


@pytest.fixture
def read_scheduler() -> Iterator[ReadScheduler]:
    made = ReadScheduler()
    made._permits = CountingPermits(_PERMITS)
    made.start()
    yield made
    made.stop()


def reader(read_scheduler: ReadScheduler, sock: socket.socket, got: list[bytes]) -> None:
    transport = PlainTransport(sock, read_scheduler)
    while data := transport.receive(4096):
        got.append(data)
    transport.close()


def test_the_readers_of_many_peers_that_close_at_once_wake_a_few_at_a_time(read_scheduler: ReadScheduler) -> None:
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
    permits = read_scheduler._permits
    assert isinstance(permits, CountingPermits)
    assert 1 <= permits.max_taken <= _PERMITS
    assert permits.taken == 0
    assert read_scheduler._wakeups == {}


def test_a_reader_waits_for_another_wakeup_though_there_is_more_to_read(read_scheduler: ReadScheduler) -> None:
    mine, theirs = socket.socketpair()
    got: list[bytes] = []
    theirs.sendall(b"x" * 10_000)
    theirs.close()
    thread = threading.Thread(target=reader, args=(read_scheduler, mine, got))
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert list(map(len, got)) == [4096, 4096, 1808]
    permits = read_scheduler._permits
    assert isinstance(permits, CountingPermits)
    assert permits.total == 4, "one for each read, the end's included"


def test_a_reader_that_is_slow_with_its_message_holds_up_no_other(read_scheduler: ReadScheduler) -> None:
    pairs = [socket.socketpair() for _ in range(_PERMITS + 5)]
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
    # More of them than there are permits are in their handlers at once.
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
    while not read_scheduler._wakeups:
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


def test_a_scheduler_that_cannot_start_leaves_nothing_behind_and_may_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read_scheduler = ReadScheduler()

    def fail() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("cartows.client.read_scheduler.os.pipe", fail)
    with pytest.raises(OSError, match="Too many"):
        read_scheduler.start()
    assert not read_scheduler.wait(0), "readers must not sleep where no thread wakes them"
    monkeypatch.undo()
    read_scheduler.start()
    read_scheduler.stop()
