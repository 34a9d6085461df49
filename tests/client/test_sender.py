"""The rules of sending (``cartows.client.sender``): each has a test that fails when the rule is broken."""

from __future__ import annotations

import errno
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartows.client.batch import Batch
from cartows.client.sender import GONE, OVERFLOW, QUEUED, SENT, WANTS_WRITER
from cartows.history.history import Event, History
from cartows.history.replay import Replay
from cartows.options import Options, Policy
from cartows.rooms import EVERYONE, Subscriptions
from cartows.websocket.frames import Frame, close_frame
from tests.support.fakes import ScriptedTransport, on_sockets, scripted, writing
from tests.support.waiting import wait_until


def queued(connection: Any) -> tuple[int, int]:
    """Return how many messages and bytes are in the send queue."""
    with connection.lock:
        return len(connection._out.queue), connection._out.queue.bytes + len(connection._out.rest)


def frames(count: int, size: int = 50, start: int = 0) -> list[Frame]:
    return [Frame(f"{number:06d}".encode().ljust(size, b".")) for number in range(start, start + count)]


def joined(several: list[Frame]) -> bytes:
    return b"".join(frame.plain for frame in several)


def test_a_client_that_keeps_up_is_sent_a_whole_batch_with_one_send() -> None:
    connection, transport, owner = scripted()
    several = frames(20)
    assert connection.offer(Batch(several)) == SENT
    assert transport.sends == [joined(several)]
    assert queued(connection) == (0, 0)
    assert owner.writers_wanted == 0


def test_nothing_goes_out_before_the_connection_is_opened_and_the_greeting_comes_first() -> None:
    connection, transport, _ = scripted(opened=False)
    early, greeting = frames(3), Frame(b"hello")
    assert connection.offer(Batch(early)) == QUEUED
    connection.ping()
    assert transport.sends == []
    connection.open(greeting)
    assert transport.taken.startswith(greeting.plain)
    assert transport.taken.endswith(joined(early))


# Rule 1


def test_every_send_holds_the_lock_and_no_thread_waits_with_it() -> None:
    connection, transport, _ = scripted()
    transport.takes = [70, 0, 10, 0, 33, 0]
    several = frames(10)
    assert connection.offer(Batch(several)) == WANTS_WRITER
    with writing(connection):
        wait_until(lambda: len(transport.sends) >= 2)
        connection.ping()
        connection.pong(b"x")
        transport.room.set()
        wait_until(lambda: queued(connection) == (0, 0))
        connection.close(1000)
        wait_until(lambda: transport.taken.endswith(close_frame(1000)))
    assert transport.broken_rules == []


def test_a_stalled_socket_holds_up_no_thread_that_offers() -> None:
    with on_sockets(Options(write_wait=30, send_queue_size=100_000, send_queue_bytes=100_000_000)) as (connection, _):
        connection.open(None)
        block = Batch(frames(50, 1000))
        while connection.offer(block) == SENT:
            pass
        with writing(connection):
            began = time.monotonic()
            for _ in range(100):
                assert connection.offer(block) == QUEUED
            # The writer waits in poll meanwhile; had it kept the lock, this would have taken write_wait.
            assert time.monotonic() - began < 10


# Rule 2


def test_after_a_short_send_others_only_queue_until_nothing_is_left() -> None:
    connection, transport, _ = scripted()
    first, second, third = frames(4), frames(4, start=4), frames(4, start=8)
    transport.takes = [10]
    assert connection.offer(Batch(first)) == WANTS_WRITER
    sends = len(transport.sends)
    assert connection.offer(Batch(second)) == WANTS_WRITER
    assert len(transport.sends) == sends, "the hub sent ahead of the writer"
    assert connection.writer_owns
    assert connection.flush(time.monotonic() + 5)
    assert not connection.writer_owns
    assert connection.offer(Batch(third)) == SENT
    assert transport.taken == joined(first + second + third)


def test_ownership_is_kept_while_only_the_rest_of_a_frame_is_left() -> None:
    connection, transport, _ = scripted()
    (only,) = frames(1)
    transport.takes = [10, 10, 0]
    connection.offer(Batch([only]))
    assert queued(connection) == (0, len(only.plain) - 10)
    assert not connection.flush(time.monotonic())
    assert connection.writer_owns
    assert connection.offer(Batch(frames(1, start=1))) == WANTS_WRITER
    assert transport.taken == only.plain[:20]


# Rule 3


@pytest.mark.parametrize("cut", [1, 10, 51, 52, 53, 103, 104, 105, 200])
def test_a_cut_frame_is_finished_before_anything_else(cut: int) -> None:
    connection, transport, _ = scripted()
    several = frames(4)
    transport.takes = [cut, 0, 0, 0]
    connection.offer(Batch(several))
    connection.ping()
    connection.pong(b"pong")
    connection.close(1001, "bye")
    assert connection.flush(time.monotonic() + 5)
    whole = cut + (-cut) % len(several[0].plain)
    assert transport.taken[:whole] == joined(several)[:whole], "a frame was torn"
    rest = transport.taken[whole:]
    for piece in (b"\x8a\x04pong", close_frame(1001, "bye"), *(frame.plain for frame in several[whole // 52 :])):
        assert piece in rest


def test_what_stands_after_a_cut_frame_is_single_messages_again() -> None:
    connection, transport, _ = scripted()
    several = frames(6)
    transport.takes = [60]
    connection.offer(Batch(several))
    assert queued(connection) == (4, 4 * 52 + 44)


def test_a_writer_that_is_cut_short_again_and_again_tears_nothing() -> None:
    random.seed(7)
    connection, transport, _ = scripted(Options(send_queue_size=10_000))
    several = frames(500)
    transport.takes = [5] + [random.randint(0, 300) for _ in range(400)]
    transport.room.set()
    for start in range(0, 500, 50):
        connection.offer(Batch(several[start : start + 50]))
    assert connection.flush(time.monotonic() + 10)
    assert transport.taken == joined(several)


@given(st.lists(st.integers(0, 700), max_size=60), st.lists(st.integers(1, 20), min_size=1, max_size=12))
def test_however_sends_fall_short_every_frame_arrives_whole_and_in_order(takes: list[int], batches: list[int]) -> None:
    connection, transport, _ = scripted(Options(send_queue_size=10_000))
    transport.room.set()
    transport.takes = list(takes)
    number, offered = 0, []
    for size in batches:
        several = frames(size, 30, number)
        number += size
        offered += several
        connection.offer(Batch(several))
        if number % 3 == 0:
            connection.flush(time.monotonic())
    assert connection.flush(time.monotonic() + 5)
    assert transport.taken == joined(offered)
    assert queued(connection) == (0, 0)
    assert not connection.writer_owns


# Rule 4


def test_the_descriptor_is_closed_by_the_reader_alone_and_never_used_again() -> None:
    with on_sockets() as (connection, theirs):
        connection.open(None)
        number = connection.transport.fd
        connection.abort()
        assert theirs.recv(10) == b"", "abort must end the connection"
        assert connection.transport.fd == number, "abort must leave the descriptor open"
        connection.finish()
        # The number is free now and goes to another socket.
        ours, other = socket.socketpair()
        with ours, other:
            assert number in (ours.fileno(), other.fileno())
            connection.offer(Batch(frames(1)))
            connection.ping()
            connection.pong(b"x")
            connection.close(1000)
            connection.abort()
            connection.flush(time.monotonic())
            ours.setblocking(False)
            other.setblocking(False)
            for end in (ours, other):
                with pytest.raises(BlockingIOError):
                    end.recv(10)


def test_the_reader_waits_for_the_writer_before_it_closes() -> None:
    with on_sockets(Options(send_queue_size=10_000, send_queue_bytes=10_000_000, write_wait=60)) as (connection, _):
        connection.open(None)
        while connection.offer(Batch(frames(50, 1000))) == SENT:
            pass
        assert connection.claim_writer()
        writer = threading.Thread(target=connection.write_pump)
        writer.start()
        connection.finish()
        assert connection.closed
        # It was waiting for room for up to a minute; the end of the socket woke it, and only then was it closed.
        writer.join(10)
        assert not writer.is_alive()


def test_finish_does_not_close_while_the_writer_runs() -> None:
    connection, transport, _ = scripted()
    assert connection.claim_writer()
    finished = threading.Event()
    reader = threading.Thread(target=lambda: (connection.finish(), finished.set()))
    reader.start()
    wait_until(lambda: connection.ended)
    assert not finished.wait(0.05)
    assert transport.fd == 0
    connection.write_pump()
    assert finished.wait(10)
    reader.join()
    assert transport.fd == -1


# Rules 5 and 6: control frames and closing


def test_pings_and_pongs_for_a_stalled_peer_do_not_pile_up() -> None:
    connection, transport, _ = scripted()
    transport.takes = [3] + [0] * 20_000
    connection.offer(Batch(frames(1)))
    for number in range(10_000):
        connection.ping()
        connection.pong(str(number).encode())
    transport.takes.clear()
    assert connection.flush(time.monotonic() + 5)
    # The rest of the frame, the newest pong, one ping.
    assert transport.taken == joined(frames(1)) + b"\x8a\x049999" + b"\x89\x00"


def test_closing_a_slow_client_does_not_wait_for_its_queue() -> None:
    connection, transport, _ = scripted()
    several, advice = frames(10), Frame(b"advice")
    transport.takes = [60, 0]
    connection.offer(Batch(several))
    assert connection.close(3008, "slow", advice=advice, drop_queue=True)
    assert connection.flush(time.monotonic() + 5)
    assert transport.taken == joined(several[:2]) + advice.plain + close_frame(3008, "slow")


def test_an_orderly_close_comes_after_the_queue() -> None:
    connection, transport, owner = scripted(Options(write_wait=7.0))
    several = frames(10)
    transport.takes = [60, 0]
    connection.offer(Batch(several))
    assert connection.close(1012)
    assert not connection.close(1000), "a connection closes once"
    assert connection.offer(Batch(frames(1))) == GONE
    assert connection.flush(time.monotonic() + 5)
    assert transport.taken == joined(several) + close_frame(1012)
    assert owner.closing_within == [7.0]
    assert connection.close_code == 1012


# Bounds


def test_a_queue_full_of_messages_overflows() -> None:
    connection, transport, _ = scripted(Options(send_queue_size=10))
    transport.takes = [0, 0]
    assert connection.offer(Batch(frames(10))) == WANTS_WRITER
    assert connection.offer(Batch(frames(1))) == OVERFLOW


def test_a_queue_full_of_bytes_overflows() -> None:
    connection, transport, _ = scripted(Options(send_queue_bytes=5000))
    transport.takes = [1, 0]
    assert connection.offer(Batch(frames(1, 4000))) == WANTS_WRITER
    assert connection.offer(Batch(frames(1, 900))) == WANTS_WRITER
    assert connection.offer(Batch(frames(1, 900))) == OVERFLOW


def test_a_client_whose_writer_has_not_come_to_run_is_not_called_slow() -> None:
    connection, transport, _ = scripted(Options(send_queue_size=10))
    several = frames(30)
    transport.takes = [0]
    assert connection.offer(Batch(several[:10])) == WANTS_WRITER
    # By now the socket takes everything again.
    assert connection.offer(Batch(several[10:])) != OVERFLOW
    assert transport.taken == joined(several)
    assert not connection.writer_owns


def test_room_in_the_queue_comes_back_as_it_is_sent() -> None:
    connection, transport, _ = scripted(Options(send_queue_size=10, send_queue_bytes=2000))
    for _ in range(50):
        transport.takes = [0]
        assert connection.offer(Batch(frames(10))) == WANTS_WRITER
        assert connection.flush(time.monotonic() + 5)
        assert queued(connection) == (0, 0)


# Ends


def test_a_peer_that_is_gone_ends_the_connection_at_the_next_send() -> None:
    connection, transport, _ = scripted()
    transport.takes = [OSError(errno.EPIPE, "gone")]
    assert connection.offer(Batch(frames(1))) == GONE
    assert connection.ended
    assert transport.was_shut_down.is_set(), "the reader must be woken"
    assert connection.offer(Batch(frames(1))) == GONE


def test_a_client_whose_socket_takes_nothing_for_write_wait_is_disconnected() -> None:
    connection, transport, _ = scripted(Options(write_wait=0.05))
    transport.takes = [0] * 1000
    connection.offer(Batch(frames(3)))
    with writing(connection):
        assert transport.was_shut_down.wait(10)
    assert connection.close_code == 3008
    assert queued(connection) == (0, 0)


def test_a_writer_is_claimed_once() -> None:
    connection, _, _ = scripted()
    assert connection.claim_writer()
    assert not connection.claim_writer()
    connection.unclaim_writer()
    assert connection.claim_writer(), "what could not be started may be tried again"
    connection.unclaim_writer()
    connection.abort()
    assert not connection.claim_writer()


# On real sockets, with every thread at once


@pytest.fixture
def tiny_switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("tiny_switch_interval")
@pytest.mark.parametrize("seed", range(3))
def test_stress_a_half_reading_peer_gets_every_frame_whole_and_in_order(seed: int) -> None:
    rng = random.Random(seed)
    options = Options(send_queue_size=1_000_000, send_queue_bytes=1 << 30, write_wait=30)
    with on_sockets(options, buffer=8192) as (connection, theirs):
        several = [Frame(f"{number:06d}".encode().ljust(rng.randint(10, 3000), b".")) for number in range(3000)]
        connection.open(None)

        def publish() -> None:
            start = 0
            while start < len(several):
                end = min(len(several), start + rng.randint(1, 40))
                assert connection.offer(Batch(several[start:end])) != GONE
                start = end

        def disturb() -> None:
            for _ in range(300):
                connection.ping()
                connection.pong(b"p")

        threads = [threading.Thread(target=publish), threading.Thread(target=disturb)]
        with writing(connection):
            for thread in threads:
                thread.start()
            numbers, buffered = [], b""
            while len(numbers) < len(several):
                buffered += theirs.recv(rng.randint(1, 20_000))
                taken, buffered = _parse(buffered)
                numbers += taken
            for thread in threads:
                thread.join(30)
        assert numbers == list(range(len(several)))


def _parse(data: bytes) -> tuple[list[int], bytes]:
    """Return the numbers of the whole text frames in a run of bytes, and what is left; fails on a torn one."""
    numbers = []
    while len(data) >= 2:
        opcode, length, head = data[0] & 15, data[1] & 127, 2
        assert data[0] & 0xF0 == 0x80, "not the beginning of a frame"
        assert opcode in (1, 9, 10)
        if length == 126:
            if len(data) < 4:
                break
            length, head = int.from_bytes(data[2:4], "big"), 4
        if len(data) < head + length:
            break
        if opcode == 1:
            numbers.append(int(data[head : head + 6]))
        data = data[head + length :]
    return numbers, data


# Replays


def recent(count: int, *, size: int = 100) -> History:
    """Return a history of so many events of which it keeps the last ``size``."""
    history = History("e", size, 1 << 20, 60)
    history.append([Event(Frame(f"event {number}".encode(), number=number), EVERYONE) for number in range(1, count + 1)])
    return history


def at(number: int, incomplete: bool) -> Frame:
    return Frame(f"at {number}{' incomplete' if incomplete else ''}".encode())


def texts(transport: ScriptedTransport) -> list[str]:
    """Return the small frames that went out."""
    found, data = [], transport.taken
    while data:
        found.append(data[2 : 2 + data[1]].decode())
        data = data[2 + data[1] :]
    return found


def test_a_client_that_asks_for_its_position_before_it_is_registered_gets_that_of_its_registration() -> None:
    connection, transport, _ = scripted(opened=False)
    assert connection.offer_position(at, 3) == QUEUED
    connection.open(Frame(b"hello"), 1, Replay(recent(3), 1, Subscriptions()))
    assert texts(transport) == ["hello", "at 1", "event 2", "event 3"]


def test_what_a_replay_has_passed_is_not_offered_again() -> None:
    connection, transport, _ = scripted(opened=False)
    history = recent(3)
    connection.open(None, 1, Replay(history, 1, Subscriptions()))
    old = [Frame(f"event {number}".encode(), number=number) for number in (2, 3)]
    assert connection.offer(Batch(old)) == SENT
    assert connection.offer(Batch([old[1], Frame(b"event 4", number=4)])) == SENT
    assert connection.offer_position(at, 3) == SENT
    assert texts(transport) == ["event 2", "event 3", "event 4", "at 4"]


def test_a_replay_that_the_history_leaves_behind_is_reported_once_and_ends_with_the_connection() -> None:
    connection, transport, owner = scripted(opened=False)
    connection.open(Frame(b"hello"), 1, Replay(recent(9, size=5), 1, Subscriptions()))
    assert owner.overflows == 1
    assert connection.close(4000, "enough")
    assert connection.flush(0)
    assert owner.overflows == 1
    assert transport.taken.endswith(close_frame(4000, "enough"))


@pytest.mark.parametrize("policy", ["drop_oldest", "coalesce"])
def test_where_slow_clients_may_lose_events_a_replay_goes_on_and_reports_what_it_lost(policy: Policy) -> None:
    connection, transport, owner = scripted(Options(slow_consumer=policy), opened=False)
    connection.open(None, 1, Replay(recent(9, size=5), 1, Subscriptions()))
    assert owner.overflows == 0
    assert texts(transport) == ["lost up to 4", *[f"event {number}" for number in range(5, 10)]]
    connection.offer_position(at, 9)
    connection.offer_position(at, 9)
    assert texts(transport)[-2:] == ["at 9 incomplete", "at 9"]
