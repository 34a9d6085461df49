"""The budget of all queues: what it counts and what it does not, whatever becomes of a connection."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable

import pytest

from cartows.client.batch import Batch
from cartows.client.connection import Connection
from cartows.client.queue_budget import FRAME_BYTES, QueueBudget
from cartows.client.sender import OVERFLOW, SENT, WANTS_WRITER
from cartows.client.transport import PlainTransport
from cartows.history.history import Event, History
from cartows.history.replay import Replay
from cartows.options import Options
from cartows.rooms import EVERYONE, Subscriptions
from cartows.websocket.frames import Frame
from tests.support.fakes import RecordingOwner, ScriptedTransport


def stuck(budget: QueueBudget, *, accepts: int = 0, options: Options | None = None) -> tuple[Connection, ScriptedTransport]:
    """Return a connection whose socket accepts so many bytes and then no more."""
    transport, lock = ScriptedTransport(), threading.Lock()
    connection = Connection(transport, lock, options or Options(), budget=budget)
    connection.owner = RecordingOwner()
    connection.open(None)
    transport.takes = [accepts, *[0] * 10_000]
    return connection, transport


def frames(count: int, size: int = 1000, **more: int) -> list[Frame]:
    return [Frame(str(number).encode().ljust(size, b"."), **more) for number in range(count)]


def cost(several: Iterable[Frame]) -> int:
    return sum(len(frame.plain) + FRAME_BYTES for frame in several)


class Untouched(QueueBudget):
    """A budget that fails when anything is counted."""

    def hold(self, frames: Iterable[Frame]) -> None:
        raise AssertionError("a client that keeps up was counted")

    change = hold  # type: ignore[assignment]


def test_a_client_that_keeps_up_costs_the_budget_nothing() -> None:
    connection, transport = stuck(Untouched())
    transport.takes = []
    assert connection.offer(Batch(frames(20, number=1))) == SENT
    connection.ping()
    connection.pong(b"x")
    assert connection.offer_position(lambda number, incomplete: Frame(b"pong"), 1) == SENT
    assert connection.close(1000)


def test_a_frame_counts_once_however_many_queues_hold_it() -> None:
    budget, several = QueueBudget(), frames(5)
    connections = [stuck(budget)[0] for _ in range(4)]
    for connection in connections:
        assert connection.offer(Batch(several)) == WANTS_WRITER
    assert budget.bytes == budget.max_bytes == cost(several)
    assert [connection.share() for connection in connections] == [cost(several) / 4] * 4
    for connection in connections[:3]:
        connection.abort()
        assert budget.bytes == cost(several)
    connections[3].abort()
    assert budget.bytes == 0


def test_the_compressed_form_of_a_frame_counts_where_it_was_made() -> None:
    budget = QueueBudget()
    frame = Frame(b"." * 100_000, compress_min_size=1)
    budget.hold([frame])
    assert budget.bytes == len(frame.plain) + FRAME_BYTES
    budget.release([frame])
    frame.compressed()
    budget.hold([frame])
    assert budget.bytes == len(frame.plain) + len(frame.compressed()) + FRAME_BYTES


def test_the_rest_of_a_cut_frame_is_no_copy_and_counts_until_it_is_sent() -> None:
    budget, large = QueueBudget(), Frame(b"." * 500_000)
    pairs = [stuck(budget, accepts=1000) for _ in range(3)]
    for connection, _ in pairs:
        assert connection.offer(Batch((large,))) == WANTS_WRITER
        rest = connection._out.rest
        assert isinstance(rest, memoryview) and rest.obj is large.plain and len(rest) == len(large.plain) - 1000
    assert budget.bytes == cost([large])
    for connection, transport in pairs:
        transport.takes = [300, 0, 70_000]
        while not connection.flush(time.monotonic()):
            assert budget.bytes == cost([large])
        assert transport.taken == large.plain
    assert budget.bytes == 0


def history_of(count: int) -> History:
    history = History("e", 10_000, 100_000_000, 300)
    history.append([Event(Frame(b"e" * 1000, number=number), EVERYONE) for number in range(1, count + 1)])
    return history


def replaying(connection: Connection) -> None:
    connection.abort() if connection.ended else None
    history = history_of(200)
    connection._opened = False
    connection.open(None, 0, Replay(history, 0, Subscriptions()))
    for frame in frames(20):
        connection.offer(Batch((frame,)))


def cut(connection: Connection) -> None:
    connection.offer(Batch(frames(3)))


def coalescing(connection: Connection) -> None:
    connection.offer(Batch([Frame(b'{"data":{"changes":{}}}', number=n, entity=("task", "t"), merges=True) for n in (1, 2, 3)]))


def several(connection: Connection) -> None:
    connection.offer(Batch(frames(30, number=7)))


@pytest.mark.parametrize("fill", [several, cut, replaying, coalescing])
@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest", "coalesce"])
@pytest.mark.parametrize(
    "end",
    [
        lambda connection, _: connection.abort(),
        lambda connection, _: connection.finish(),
        lambda connection, _: connection.release(),
        lambda connection, transport: (transport.takes.clear(), connection.flush(time.monotonic() + 10)),
        lambda connection, transport: (connection.disconnect(3008, "slow"), transport.takes.clear(), connection.flush(9e9)),
        lambda connection, transport: (transport.takes.insert(0, OSError("gone")), connection.ping(), connection.flush(0)),
    ],
    ids=["aborted", "finished", "released", "sent", "disconnected", "broken"],
)
def test_however_a_connection_ends_nothing_of_it_is_counted_any_more(
    policy: str, fill: Callable[[Connection], None], end: Callable[[Connection, ScriptedTransport], object]
) -> None:
    budget = QueueBudget()
    options = Options(slow_consumer=policy, send_queue_size=10)  # type: ignore[arg-type]
    connection, transport = stuck(budget, accepts=10, options=options)
    fill(connection)
    assert budget.max_bytes > 0
    end(connection, transport)
    assert budget.bytes == 0
    assert connection.share() == 0


# The limit ------------------------------------------------------------------------------------------------------------


def test_relief_is_asked_for_once_until_it_begins() -> None:
    asked: list[int] = []
    budget = QueueBudget(10_000, lambda: asked.append(budget.bytes))
    connection, _ = stuck(budget)
    for frame in frames(7):
        connection.offer(Batch((frame,)))
    assert asked == []
    for frame in frames(2):
        connection.offer(Batch((frame,)))
    assert len(asked) == 1 and asked[0] > 10_000
    budget.begin_relief()
    assert not budget.relieved(0)
    assert budget.relieved(budget.bytes - 7_500)
    connection.offer(Batch(frames(1)))
    assert len(asked) == 2


def test_relief_that_frees_too_little_is_asked_for_again() -> None:
    asked: list[int] = []
    budget = QueueBudget(10_000, lambda: asked.append(budget.bytes))
    connection, _ = stuck(budget)
    connection.offer(Batch(frames(12)))
    assert len(asked) == 1
    budget.begin_relief()
    several = frames(3)
    budget.hold(several)
    budget.begin_relief()
    budget.release(several)
    assert len(asked) == 3 and budget.bytes > 10_000, "nothing may come to be held any more"


@pytest.mark.parametrize("policy", ["disconnect", "drop_oldest", "coalesce"])
@pytest.mark.parametrize("fill", [several, replaying])
def test_no_queue_takes_more_than_a_quarter_above_the_limit(policy: str, fill: Callable[[Connection], None]) -> None:
    """Relief comes on another thread, which may be late; memory must be bounded all the same."""
    budget = QueueBudget(100_000)
    budget.change(125_001)
    assert budget.exhausted
    options = Options(slow_consumer=policy)  # type: ignore[arg-type]
    connection, _ = stuck(budget, options=options)
    if fill is replaying:
        connection._out.replay = Replay(history_of(200), 0, Subscriptions())
    assert connection.offer(Batch(frames(1))) == OVERFLOW
    connection.abort()
    budget.change(-25_000)
    assert not budget.exhausted and budget.bytes == 100_001
    assert stuck(budget)[0].offer(Batch(frames(1))) == WANTS_WRITER


def test_many_threads_count_to_nothing_in_the_end() -> None:
    budget, shared = QueueBudget(), frames(50)

    def work() -> None:
        for _ in range(100):
            own = frames(5)
            budget.hold(shared)
            budget.hold(own)
            budget.release(own)
            budget.release(shared)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.bytes == 0
    assert cost(shared) <= budget.max_bytes <= cost(shared) + 4 * cost(frames(5))


# The kernel -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other send buffers")
def test_the_kernel_holds_little_for_a_client_that_never_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as peer:
        transport = PlainTransport(server.accept()[0])
        try:
            transport.tune(Options().write_buffer)
            # Until it takes nothing more, though the peer's kernel has had time to take all that it will.
            accepted, deadline = 0, time.monotonic() + 10
            while transport.wait_writable(0.2) and time.monotonic() < deadline:
                accepted += transport.send(b"." * 16_384)
            # 128 KiB here and what the peer's kernel holds; by itself the kernel takes 4 MiB.
            assert accepted < 1 << 20
            assert peer.fileno() >= 0
        finally:
            transport.close()
