"""The hub, its clients and its heartbeat together, on socket pairs in this process."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from cartows import Client, Hub, HubClosed, Message, MessageError, Options, PublishRejected, new_message
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport


class Peer:
    """Be the browser's end of a client's socket pair."""

    def __init__(self, sock: socket.socket, client: Client) -> None:
        self.sock = sock
        self.client = client
        self.buffer = b""
        sock.settimeout(10)

    def frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; fails when none comes."""
        while True:
            if len(self.buffer) >= 2:
                length, head = self.buffer[1] & 127, 2
                if length == 126:
                    length, head = int.from_bytes(self.buffer[2:4], "big"), 4
                elif length == 127:
                    length, head = int.from_bytes(self.buffer[2:10], "big"), 10
                if len(self.buffer) >= head + length:
                    opcode, payload = self.buffer[0] & 15, self.buffer[head : head + length]
                    self.buffer = self.buffer[head + length :]
                    return opcode, payload
            data = self.sock.recv(65536)
            assert data, "the connection ended"
            self.buffer += data

    def message(self) -> dict[str, Any]:
        """Return the next message, skipping pings."""
        while True:
            opcode, payload = self.frame()
            if opcode == 1:
                found: dict[str, Any] = json.loads(payload)
                return found
            assert opcode in (9, 10), f"opcode {opcode}: {payload!r}"

    def close_code(self) -> int:
        """Return the code of the close frame, skipping what comes before it."""
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big")

    def say(self, text: str, opcode: int = 1) -> None:
        data = text.encode()
        assert len(data) < 126
        self.sock.sendall(bytes((0x80 | opcode, 0x80 | len(data), 0, 0, 0, 0)) + data)

    def is_silent(self) -> bool:
        return not self.buffer and not select.select([self.sock], [], [], 0)[0]


Join = Callable[..., Peer]


@pytest.fixture
def hubs() -> Iterator[Callable[..., Hub]]:
    made: list[Hub] = []

    def make(**settings: Any) -> Hub:
        made.append(Hub(options=Options(**settings)))
        return made[-1]

    yield make
    for hub in made:
        hub.shutdown(0.2)


@pytest.fixture
def join() -> Iterator[Join]:
    """Connect a client to a hub as the handler does, less the HTTP."""
    with ExitStack() as stack:
        threads: list[threading.Thread] = []

        def connect(hub: Hub, kind: type[Client] = Client, greet: bool = True, **filters: Any) -> Peer:
            mine, theirs = socket.socketpair()
            connection = Connection(PlainTransport(mine), threading.Lock(), hub.options)
            client = kind(hub, connection, f"client-{len(threads)}")
            for key, value in filters.items():
                client.set_filter(key, value)
            thread = threading.Thread(target=client.read_pump, name="reader")
            threads.append(thread)
            thread.start()
            hub.register_client(client)
            peer = Peer(theirs, client)
            stack.callback(theirs.close)
            if greet and hub.options.greeting:
                assert peer.message()["type"] == "connected"
            return peer

        yield connect
        stack.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 10 s"
        threading.Event().wait(0.001)


def number(message: dict[str, Any]) -> int:
    return int(message["id"].split(".")[1])


def test_the_greeting_comes_first_and_names_the_client_and_the_position(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(ping_period=25.0)
    first = join(hub, greet=False).message()
    assert first["data"]["client_id"] == "client-0"
    assert first["data"]["ping_interval_ms"] == 25_000
    assert first["id"] == first["data"]["id"]
    assert number(first) == 0
    event = hub.broadcast_task_created("t1", "b1", {"id": "t1"})
    # Who arrives in the very turn that brings an event comes before it.
    until(lambda: hub.position == 1)
    later = join(hub, greet=False).message()
    assert later["id"] == event.id


def test_all_clients_see_one_order_whoever_publishes(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_size=5000)
    peers = [join(hub) for _ in range(5)]
    per_publisher: dict[int, list[int]] = {}

    def publish(who: int) -> None:
        ids = [hub.broadcast("tick", {"who": who, "n": n}).id for n in range(100)]
        per_publisher[who] = [int(str(each).split(".")[1]) for each in ids]

    threads = [threading.Thread(target=publish, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    seen = [[peer.message() for _ in range(400)] for peer in peers]
    for thread in threads:
        thread.join()
    for messages in seen:
        assert [number(message) for message in messages] == list(range(1, 401))
        for who in range(4):
            assert [m["data"]["n"] for m in messages if m["data"]["who"] == who] == list(range(100))
    assert all(numbers == sorted(numbers) for numbers in per_publisher.values())


def test_filters_are_a_union_and_typed_helpers_honour_them(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    everything, board, project = join(hub), join(hub, board_id=["b1", "b2"]), join(hub, project_id="p1", board_id="b9")
    hub.broadcast_task_created("t1", "b1", {"project_id": "p1"})
    hub.broadcast_task_created("t2", "b2", None)
    hub.broadcast_task_created("t3", "b3", None, project_id="p1")
    hub.broadcast_project_created("p1", {"name": "x"})
    hub.broadcast_to_filtered(new_message("only.b2"), "board_id", "b2")
    hub.broadcast_message(new_message("end"))
    for peer, expected in ((everything, [1, 2, 3, 4, 6]), (board, [1, 2, 5, 6]), (project, [1, 3, 4, 6])):
        assert [number(peer.message()) for _ in expected] == expected
        assert peer.is_silent()


def test_a_filter_that_is_changed_holds_from_the_next_event_on(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub, board_id="b1")
    peer.client.set_filter("board_id", "b2")
    assert peer.client.get_filter("board_id") == "b2"
    assert peer.client.filters == {"board_id": ("b2",)}
    hub.broadcast_task_deleted("t", "b1")
    hub.broadcast_task_deleted("t", "b2")
    assert peer.message()["data"]["board_id"] == "b2"
    peer.client.set_filter("board_id", [])
    assert peer.client.get_filter("board_id") is None


def test_a_ping_is_answered_with_the_position_and_nonsense_with_an_error(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub)
    published = hub.broadcast("x")
    assert peer.message()["id"] == published.id
    peer.say('{"type": "ping"}')
    pong = peer.message()
    assert pong["type"] == "pong"
    assert pong["id"] == published.id
    for text, code in (('{"type": "nope"}', "UNKNOWN_TYPE"), ("{", "INVALID_MESSAGE"), ("[1]", "INVALID_MESSAGE"), ('{"a": 1}', "INVALID_MESSAGE")):  # fmt: skip  # noqa: E501
        peer.say(text)
        error = peer.message()
        assert error["type"] == "error"
        assert error["data"]["code"] == code
        assert error["error"] == error["data"]["message"]
    peer.say('{"type": "pong"}')
    peer.say('{"type": "ping"}')
    assert peer.message()["type"] == "pong"


class Raising(Client):
    def handle_incoming_message(self, data: str | bytes) -> None:
        if data == "raise":
            raise ValueError("the app's bug")
        self.send(data)


def test_a_handler_that_raises_is_logged_and_answered_and_the_connection_stays(
    hubs: Callable[..., Hub], join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    peer = join(hubs(), Raising)
    peer.say("raise")
    assert peer.message()["data"]["code"] == "INTERNAL"
    assert "the app's bug" in caplog.text
    peer.say('"still here"')
    assert peer.frame() == (1, b'"still here"')


def test_a_raw_protocol_gets_text_for_text_and_binary_for_binary(hubs: Callable[..., Hub], join: Join) -> None:
    peer = join(hubs(greeting=False), Raising)
    peer.say("text")
    assert peer.frame() == (1, b"text")
    peer.say("bytes", opcode=2)
    assert peer.frame() == (2, b"bytes")
    peer.client.close(4000, "done")
    assert peer.close_code() == 4000


def test_what_cannot_be_serialised_raises_here_and_takes_no_number(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_bytes=10_000)
    peer = join(hub)
    with pytest.raises(MessageError, match=r"data.*'deep'.*object"):
        hub.broadcast("x", {"deep": object()})
    with pytest.raises(MessageError, match="CARTOWS_SEND_QUEUE_BYTES"):
        hub.broadcast("x", "y" * 10_000)
    assert hub.broadcast("x").accepted
    assert number(peer.message()) == 1


def test_a_full_channel_is_said_in_the_result_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(options=Options(broadcast_queue_size=2, publish_timeout=0.05))
    held, release = threading.Event(), threading.Event()
    hub.start()
    hub._broadcast_queue.put_control(lambda: (held.set(), release.wait(30)))  # type: ignore[arg-type,func-returns-value]
    assert held.wait(10)
    caplog.set_level(logging.WARNING)
    results = [hub.broadcast("x") for _ in range(6)]
    assert [result.accepted for result in results] == [True, True, False, False, False, False]
    assert results[2].status is None
    assert "2 messages" in str(results[2].reason)
    with pytest.raises(PublishRejected, match="stayed full"):
        results[2].raise_for_rejected()
    assert caplog.text.count("was not sent") == 1
    assert hub.stats()["rejected"] == 4
    release.set()
    until(lambda: hub.stats()["waiting"] == 0)
    assert hub.broadcast("x").id == results[1].id.replace(".2", ".3")  # type: ignore[union-attr]
    assert caplog.text.count("were rejected so far") == 1
    hub.shutdown()


def test_many_publishers_wait_no_longer_than_one(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(options=Options(broadcast_queue_size=1, publish_timeout=0.3))
    release = threading.Event()
    hub.start()
    hub._broadcast_queue.put_control(lambda: release.wait(30))  # type: ignore[arg-type,return-value]
    waits: list[float] = []

    def publish() -> None:
        began = time.monotonic()
        hub.broadcast("x")
        waits.append(time.monotonic() - began)

    threads = [threading.Thread(target=publish) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    release.set()
    assert max(waits) < 0.3 * 5, "publishers queued behind one another's deadline"
    hub.shutdown()


def test_the_hub_thread_survives_a_control_and_a_client_that_raise(
    hubs: Callable[..., Hub], join: Join, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hubs()
    peer, broken = join(hub), join(hub)
    hub._broadcast_queue.put_control(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(Client, "handle_send_result", lambda self, outcome: 1 / 0)
    broken.client.connection.writer_owns = True
    hub.broadcast("one")
    hub.broadcast("two")
    assert [peer.message()["type"], peer.message()["type"]] == ["one", "two"]
    monkeypatch.undo()
    assert "ZeroDivisionError" in caplog.text


def test_a_slow_client_is_put_out_with_advice_and_the_others_lose_nothing(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_size=64, write_wait=30)
    slow, fine = join(hub), join(hub)
    got: list[int] = []
    # The fine one keeps up: no more than a third of its queue is ever under way.
    window = threading.Semaphore(20)

    def read() -> None:
        for _ in range(2000):
            got.append(number(fine.message()))
            window.release()

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(2000):
        assert window.acquire(timeout=10)
        hub.broadcast("tick", {"n": n, "pad": "." * 2000})
    reader.join(30)
    assert got == list(range(1, 2001))
    until(lambda: hub.client_count() == 1)
    assert hub.stats()["slow_consumers"] == 1
    before, advice = [], None
    while True:
        opcode, payload = slow.frame()
        if opcode == 8:
            break
        message = json.loads(payload)
        if message["type"] == "disconnect":
            advice = message["data"]
        else:
            before.append(number(message))
    assert int.from_bytes(payload[:2], "big") == 3008
    assert before == list(range(1, len(before) + 1)), "what it got before was in order and without a hole"
    assert advice == {"code": 3008, "reason": advice["reason"], "reconnect": True, "retry_after_ms": 0}  # type: ignore[index]


def test_a_client_that_falls_behind_for_a_moment_is_caught_up_by_its_writer(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_size=5000, send_queue_bytes=50_000_000)
    peer = join(hub)
    for n in range(1000):
        hub.broadcast("tick", {"n": n, "pad": "." * 2000})
    until(lambda: hub.stats()["waiting"] == 0)
    assert [number(peer.message()) for _ in range(1000)] == list(range(1, 1001))
    until(lambda: not peer.client.connection.writer_owns)
    hub.broadcast("after")
    assert peer.message()["type"] == "after"


def test_a_silent_peer_is_pinged_and_put_out_and_leaves_nothing_behind(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(ping_period=0.1, pong_wait=0.4)
    peer = join(hub)
    assert peer.frame() == (9, b"")
    assert peer.close_code() == 3012
    until(lambda: hub.client_count() == 0 and peer.client.connection.closed)
    until(lambda: not hub.heartbeat._beats)


def test_a_peer_that_answers_pings_stays(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(ping_period=0.05, pong_wait=1.5)
    peer = join(hub)
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        assert peer.frame() == (9, b"")
        peer.say("", opcode=10)
    assert hub.client_count() == 1


class Dawdling(Client):
    release = threading.Event()

    def handle_incoming_message(self, data: str | bytes) -> None:
        self.release.wait(20)
        super().handle_incoming_message(data)


def test_the_pong_deadline_stands_still_while_a_handler_runs(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(ping_period=0.05, pong_wait=0.2)
    Dawdling.release.clear()
    peer = join(hub, Dawdling)
    peer.say('{"type": "ping"}')
    for _ in range(10):
        assert peer.frame()[0] == 9
    Dawdling.release.set()
    assert peer.message()["type"] == "pong"
    assert hub.client_count() == 1


def test_a_peer_that_is_gone_before_it_is_registered_leaves_no_ghost(hubs: Callable[..., Hub]) -> None:
    hub = hubs()
    hub.start()
    for _ in range(50):
        mine, theirs = socket.socketpair()
        client = Client(hub, Connection(PlainTransport(mine), threading.Lock(), hub.options), "c")
        theirs.close()
        client.read_pump()
        hub.register_client(client)
    done = threading.Event()
    hub._broadcast_queue.put_registration(done.set)
    assert done.wait(10)
    assert hub.client_count() == 0
    assert hub.registry.present() == []


def test_unregistering_a_client_ends_its_connection(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub)
    hub.unregister_client(peer.client)
    assert peer.close_code() == 1000
    until(lambda: hub.client_count() == 0)


def test_a_filter_change_is_not_overtaken_by_an_event_whatever_else_waits(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub, board_id="b1")
    held, release = threading.Event(), threading.Event()
    hub._broadcast_queue.put_control(lambda: (held.set(), release.wait(30)))  # type: ignore[arg-type,func-returns-value]
    assert held.wait(10)
    for _ in range(500):
        hub._broadcast_queue.put_control(lambda: None)
    peer.client.set_filter("board_id", "b2")
    hub.broadcast_task_deleted("secret", "b1")
    hub.broadcast_task_deleted("open", "b2")
    release.set()
    assert peer.message()["data"]["task_id"] == "open"


def test_a_message_larger_than_any_queue_is_refused_here_and_the_client_stays(hubs: Callable[..., Hub], join: Join) -> None:
    peer = join(hubs(send_queue_bytes=10_000))
    with pytest.raises(MessageError, match="CARTOWS_SEND_QUEUE_BYTES"):
        peer.client.send("x" * 10_001)
    assert peer.client.send("still here")
    assert peer.frame() == (1, b"still here")


def test_one_client_whose_offer_raises_costs_the_others_nothing(
    hubs: Callable[..., Hub], join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    hub = hubs()
    broken, fine = join(hub), join(hub)

    class Broken(PlainTransport):
        def send(self, data: bytes) -> int:
            broken.client.connection.transport = whole
            raise ZeroDivisionError

    whole = broken.client.connection.transport
    broken.client.connection.transport = Broken(whole.sock, borrowed=True)
    hub.broadcast("one")
    assert fine.message()["type"] == "one"
    assert broken.close_code() == 1011
    assert "ZeroDivisionError" in caplog.text


def test_a_hub_without_a_thread_says_so_and_the_next_broadcast_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name == "cartows-hub":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    result = hub.broadcast("x")
    assert not result.accepted
    assert "no thread" in str(result.reason)
    monkeypatch.undo()
    assert hub.broadcast("x").accepted
    hub.shutdown(1)


def test_a_writer_that_cannot_be_started_yet_is_started_later(
    hubs: Callable[..., Hub], join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hubs(send_queue_size=5000, send_queue_bytes=50_000_000)
    peer = join(hub)
    start, failed = threading.Thread.start, threading.Event()

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith("cartows-writer"):
            failed.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    for n in range(500):
        hub.broadcast("tick", {"n": n, "pad": "." * 2000})
    assert failed.wait(10)
    monkeypatch.undo()
    assert [number(peer.message()) for _ in range(500)] == list(range(1, 501))


def test_a_second_shutdown_waits_for_the_first(join: Join) -> None:
    hub = Hub()
    join(hub)
    first = threading.Thread(target=hub.shutdown, args=(1.0,))
    first.start()
    until(lambda: hub.closed)
    hub.shutdown(10)
    assert hub.registry.present() == []
    first.join(10)


def test_shutdown_sends_what_was_accepted_then_says_goodbye_and_ends_every_thread(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_size=5000)
    peers = [join(hub) for _ in range(20)]
    for n in range(200):
        assert hub.broadcast("tick", {"n": n}).accepted
    ends: list[tuple[int, dict[str, Any], int]] = []

    def listen(peer: Peer) -> None:
        count = 0
        while (message := peer.message())["type"] == "tick":
            count += 1
        code = peer.close_code()
        peer.sock.sendall(b"\x88\x82\0\0\0\0" + code.to_bytes(2, "big"))
        ends.append((count, message["data"], code))

    threads = [threading.Thread(target=listen, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    hub.shutdown(5)
    for thread in threads:
        thread.join(10)
    assert [(count, code) for count, _, code in ends] == [(200, 1012)] * 20
    assert all(advice["code"] == 1012 and advice["reconnect"] for _, advice, _ in ends)
    assert len({advice["retry_after_ms"] for _, advice, _ in ends}) > 1, "the returns must be spread"
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("cartows")])
    assert hub.client_count() == 0
    hub.shutdown()
    with pytest.raises(HubClosed):
        hub.broadcast("late")
    with pytest.raises(HubClosed):
        hub.start()


def test_shutdown_keeps_to_its_time_with_peers_that_neither_read_nor_answer(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_size=10_000, send_queue_bytes=100_000_000)
    peers = [join(hub) for _ in range(5)]
    for _ in range(100):
        hub.broadcast("x", "." * 20_000)
    began = time.monotonic()
    hub.shutdown(0.5)
    assert time.monotonic() - began < 2.0
    until(lambda: all(peer.client.connection.closed for peer in peers))


def test_run_is_the_loop_for_a_thread_of_the_apps_own(join: Join) -> None:
    hub = Hub()
    thread = threading.Thread(target=hub.run)
    thread.start()
    until(lambda: hub._thread is not None)
    peer = join(hub)
    hub.broadcast("x")
    assert peer.message()["type"] == "x"
    with pytest.raises(RuntimeError, match="runs already"):
        hub.run()
    hub.shutdown(0.2)
    thread.join(10)


def test_a_broadcast_that_nobody_can_hear_says_so_once(hubs: Callable[..., Hub], caplog: pytest.LogCaptureFixture) -> None:
    hub = hubs()
    for _ in range(3):
        assert hub.broadcast("x").accepted
    assert caplog.text.count("reaches nobody") == 1


def test_a_message_with_an_id_of_its_own_gets_the_hubs(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub)
    result = hub.broadcast_message(Message(type="x", id="forged.7"))
    assert peer.message()["id"] == result.id != "forged.7"


# Forks and exits --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_starts_afresh_and_leaves_the_parents_clients_alone(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Nothing here may raise, or a second pytest would go on.
        try:
            found = {"clients": hub.client_count(), "ended": peer.client.connection.ended, "sent": peer.client.send("no")}
            mine, theirs = socket.socketpair()
            client = Client(hub, Connection(PlainTransport(mine), threading.Lock(), hub.options), "child")
            threading.Thread(target=client.read_pump, daemon=True).start()
            hub.register_client(client)
            own = Peer(theirs, client)
            found["greeting"] = own.message()["type"]
            found["id"] = hub.broadcast("in.child").id
            found["heard"] = own.message()["type"]
            hub.shutdown(0.5)
        except BaseException as error:
            found = {"error": repr(error)}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    try:
        assert select.select([reading], [], [], 20)[0], "the child hangs"
        found = json.loads(os.read(reading, 65536))
    finally:
        os.close(reading)
        os.waitpid(pid, 0)
    mine_id = hub.broadcast("in.parent").id
    assert found.pop("id").split(".")[0] != str(mine_id).split(".")[0], "an epoch of its own"
    assert found == {"clients": 0, "ended": True, "sent": False, "greeting": "connected", "heard": "in.child"}
    assert peer.message()["type"] == "in.parent", "the child's end must not have touched the parent's connection"
    peer.say('{"type": "ping"}')
    assert peer.message()["type"] == "pong"


AT_EXIT = """
import os, socket, sys, threading
from cartows import Client, Hub
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport
hub = Hub()
client = Client(hub, Connection(PlainTransport(socket.socket(fileno=int(sys.argv[1]))), threading.Lock(), hub.options), "c")
threading.Thread(target=client.read_pump, daemon=True).start()
hub.register_client(client)
for n in range(50):
    hub.broadcast("tick", "." * 5000)
"""


def test_at_interpreter_exit_what_was_accepted_goes_out_and_then_the_goodbye() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        arguments = [sys.executable, "-c", AT_EXIT, str(theirs.fileno())]
        with subprocess.Popen(arguments, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE) as process:
            theirs.close()
            peer = Peer(mine, None)  # type: ignore[arg-type]
            types = [peer.message()["type"] for _ in range(52)]
            assert types == ["connected", *["tick"] * 50, "disconnect"]
            assert peer.close_code() == 1012
            mine.close()
            assert process.wait(10) == 0
            assert process.stderr is not None
            assert b"Traceback" not in process.stderr.read()
