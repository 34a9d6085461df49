"""The hub and its clients together, on socket pairs in this process."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable

import pytest

from cartows import Client, Hub, Message, MessageError, Options, PublishRejected, new_message
from cartows.client.connection import Connection
from cartows.client.transport import PlainTransport
from tests.hub.conftest import Join, number
from tests.support.waiting import wait_until


def test_the_greeting_comes_first_and_names_the_client_and_the_position(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(ping_period=25.0)
    first = join(hub, greet=False).message()
    assert first["data"]["client_id"] == "client-0"
    assert first["data"]["ping_interval_ms"] == 25_000
    assert first["id"] == first["data"]["id"]
    assert number(first) == 0
    event = hub.broadcast_task_created("t1", "b1", {"id": "t1"})
    # A client that is registered in the same iteration as an event is registered before it.
    wait_until(lambda: hub.position == 1)
    later = join(hub, greet=False).message()
    assert later["id"] == event.id


def test_all_clients_see_one_order_for_several_publishers(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_size=5000)
    peers = [join(hub) for _ in range(5)]
    per_publisher: dict[int, list[int]] = {}

    def publish(publisher: int) -> None:
        ids = [hub.broadcast("tick", {"publisher": publisher, "n": n}).id for n in range(100)]
        per_publisher[publisher] = [int(str(each).split(".")[1]) for each in ids]

    threads = [threading.Thread(target=publish, args=(publisher,)) for publisher in range(4)]
    for thread in threads:
        thread.start()
    seen = [[peer.message() for _ in range(400)] for peer in peers]
    for thread in threads:
        thread.join()
    for messages in seen:
        assert [number(message) for message in messages] == list(range(1, 401))
        for publisher in range(4):
            assert [m["data"]["n"] for m in messages if m["data"]["publisher"] == publisher] == list(range(100))
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


def test_a_ping_is_answered_with_the_position_and_an_invalid_message_with_an_error(
    hubs: Callable[..., Hub], join: Join
) -> None:
    hub = hubs()
    peer = join(hub)
    published = hub.broadcast("x")
    assert peer.message()["id"] == published.id
    peer.send_text('{"type": "ping"}')
    pong = peer.message()
    assert pong["type"] == "pong"
    assert pong["id"] == published.id
    for text, code in (('{"type": "nope"}', "UNKNOWN_TYPE"), ("{", "INVALID_MESSAGE"), ("[1]", "INVALID_MESSAGE"), ('{"a": 1}', "INVALID_MESSAGE")):  # fmt: skip  # noqa: E501
        peer.send_text(text)
        error = peer.message()
        assert error["type"] == "error"
        assert error["data"]["code"] == code
        assert error["error"] == error["data"]["message"]
    peer.send_text('{"type": "pong"}')
    peer.send_text('{"type": "ping"}')
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
    peer.send_text("raise")
    assert peer.message()["data"]["code"] == "INTERNAL"
    assert "the app's bug" in caplog.text
    peer.send_text('"still here"')
    assert peer.frame() == (1, b'"still here"')


def test_a_raw_protocol_gets_text_for_text_and_binary_for_binary(hubs: Callable[..., Hub], join: Join) -> None:
    peer = join(hubs(greeting=False), Raising)
    peer.send_text("text")
    assert peer.frame() == (1, b"text")
    peer.send_text("bytes", opcode=2)
    assert peer.frame() == (2, b"bytes")
    peer.client.close(4000, "done")
    assert peer.close_code() == 4000


def test_what_cannot_be_serialised_raises_in_the_caller_and_takes_no_number(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_bytes=10_000)
    peer = join(hub)
    with pytest.raises(MessageError, match=r"data.*'deep'.*object"):
        hub.broadcast("x", {"deep": object()})
    with pytest.raises(MessageError, match="CARTOWS_SEND_QUEUE_BYTES"):
        hub.broadcast("x", "y" * 10_000)
    assert hub.broadcast("x").accepted
    assert number(peer.message()) == 1


def test_a_full_queue_is_reported_in_the_result_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(options=Options(broadcast_queue_size=2, publish_timeout=0.05))
    held, release = threading.Event(), threading.Event()
    hub.start()
    hub._pipeline.queue.put_control(lambda: (held.set(), release.wait(30)))  # type: ignore[arg-type,func-returns-value]
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
    wait_until(lambda: hub.stats()["waiting"] == 0)
    assert hub.broadcast("x").id == results[1].id.replace(".2", ".3")  # type: ignore[union-attr]
    assert caplog.text.count("were rejected so far") == 1
    hub.shutdown()


def test_many_publishers_wait_no_longer_than_one(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(options=Options(broadcast_queue_size=1, publish_timeout=0.3))
    release = threading.Event()
    hub.start()
    hub._pipeline.queue.put_control(lambda: release.wait(30))  # type: ignore[arg-type]
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
    hub._pipeline.queue.put_control(lambda: 1 / 0)  # type: ignore[arg-type]
    monkeypatch.setattr(Client, "handle_send_result", lambda self, outcome: 1 / 0)
    broken.client.connection.writer_owns = True
    hub.broadcast("one")
    hub.broadcast("two")
    assert [peer.message()["type"], peer.message()["type"]] == ["one", "two"]
    monkeypatch.undo()
    assert "ZeroDivisionError" in caplog.text


def test_a_slow_client_is_disconnected_with_advice_and_the_others_lose_nothing(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs(send_queue_size=64, write_wait=30)
    slow, fine = join(hub), join(hub)
    got: list[int] = []
    # The other one keeps up: no more than a third of its queue is ever in flight.
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
    wait_until(lambda: hub.client_count() == 1)
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
    wait_until(lambda: hub.stats()["waiting"] == 0)
    assert [number(peer.message()) for _ in range(1000)] == list(range(1, 1001))
    wait_until(lambda: not peer.client.connection.writer_owns)
    hub.broadcast("after")
    assert peer.message()["type"] == "after"


def test_a_peer_that_is_gone_before_it_is_registered_leaves_no_client(hubs: Callable[..., Hub]) -> None:
    hub = hubs()
    hub.start()
    for _ in range(50):
        mine, theirs = socket.socketpair()
        client = Client(hub, Connection(PlainTransport(mine), threading.Lock(), hub.options), "c")
        theirs.close()
        client.read_pump()
        hub.register_client(client)
    done = threading.Event()
    hub._pipeline.queue.put_registration(done.set)
    assert done.wait(10)
    assert hub.client_count() == 0
    assert hub.present_clients() == []


def test_a_revocation_of_another_process_is_applied_where_no_thread_is_left_for_it(
    hubs: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = hubs()
    mark = hub.revocation_mark()

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    hub._pipeline._sink.reauthorize_identity("ann")
    monkeypatch.undo()
    assert hub.revocations_since(mark, "ann") == (False, True)


def test_unregistering_a_client_ends_its_connection(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub)
    hub.unregister_client(peer.client)
    assert peer.close_code() == 1000
    wait_until(lambda: hub.client_count() == 0)


def test_a_filter_change_is_not_overtaken_by_an_event_while_other_controls_wait(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub, board_id="b1")
    held, release = threading.Event(), threading.Event()
    hub._pipeline.queue.put_control(lambda: (held.set(), release.wait(30)))  # type: ignore[arg-type,func-returns-value]
    assert held.wait(10)
    for _ in range(500):
        hub._pipeline.queue.put_control(lambda: None)
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


def test_one_client_whose_offer_raises_does_not_affect_the_others(
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


def test_a_broadcast_without_clients_is_logged_once(hubs: Callable[..., Hub], caplog: pytest.LogCaptureFixture) -> None:
    hub = hubs()
    for _ in range(3):
        assert hub.broadcast("x").accepted
    assert caplog.text.count("reaches no client") == 1


def test_a_message_with_an_id_of_its_own_gets_the_hubs(hubs: Callable[..., Hub], join: Join) -> None:
    hub = hubs()
    peer = join(hub)
    result = hub.broadcast_message(Message(type="x", id="forged.7"))
    assert peer.message()["id"] == result.id != "forged.7"
