"""The resume example, used as its README describes: the cable is pulled and plugged in, and nothing is missed."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.integration.conftest import Serve
from tests.support.clients import Peer
from tests.support.harness import HOST, Server
from tests.support.process import HAS_PROC
from tests.support.raw_client import Json, RawClient
from tests.support.waiting import DEADLINE, wait_until
from tests.test_readme import curl, curl_lines

README = Path(__file__).resolve().parents[2] / "examples" / "resume" / "README.md"
CONFIG = {"CABLE_PORT": 0, "PAUSED": True}


class Example:
    """The running example, with connections through its cable."""

    def __init__(self, server: Server, stack: contextlib.ExitStack) -> None:
        self.server = server
        self._stack = stack
        self.port: int = self.state()["port"]

    def state(self) -> Json:
        found: Json = self.server.get("/state").json
        return found

    def numbers(self) -> list[int]:
        found: list[int] = self.server.get("/numbers").json
        return found

    def post(self, path: str) -> Json:
        response = self.server.post(path, None)
        assert response.status == 200, response
        found: Json = response.json
        return found

    def publish(self, count: int) -> list[int]:
        """Publish some numbers and return them."""
        last: int = self.post(f"/numbers?count={count}")["last"]
        return list(range(last - count + 1, last + 1))

    def open(self, since: str | None = None) -> Peer:
        """Connect through the cable, as the page does."""
        path = "/ws" if since is None else f"/ws?since={since}"
        origin: Any = f"http://{HOST}:{self.server.port}"
        connection = connect(
            f"ws://{HOST}:{self.port}{path}", origin=origin, ping_interval=None, proxy=None, close_timeout=DEADLINE
        )
        return Peer(self._stack.enter_context(connection))

    def raw(self) -> RawClient:
        return self._stack.enter_context(RawClient(HOST, self.port))


def receive_numbers(peer: Peer, count: int) -> tuple[list[int], str]:
    """Return so many numbers, and the id of the last."""
    messages = [peer.receive() for _ in range(count)]
    assert {message["type"] for message in messages} == {"tick"}, messages
    return [message["data"]["n"] for message in messages], messages[-1]["id"]


@pytest.fixture
def example(serve: Serve) -> Iterator[Example]:
    server = serve("resume_example", config=CONFIG)
    with contextlib.ExitStack() as stack:
        example = Example(server, stack)
        yield example
        for path in ("/pause", "/plug"):
            example.post(path)


def test_exactly_what_was_missed_is_replayed(example: Example) -> None:
    page = example.open()
    numbers = example.publish(3)
    received, last = receive_numbers(page, 3)
    assert received == numbers

    assert example.post("/pull")["plugged"] is False
    missed = example.publish(2) + example.publish(3)
    assert example.post("/plug")["plugged"] is True
    # No byte of what was sent meanwhile, and no close frame: the network was down.
    messages, closed = page.ended()
    assert (messages, closed.code) == ([], 1006)

    again = example.open(last)
    assert again.hello["data"]["recovered"] is True
    assert again.hello["data"]["replayed"] == 5
    live = example.publish(2)
    received, last = receive_numbers(again, 7)
    assert received == missed + live
    # Nothing is received twice: the answer to a ping is next.
    pong = again.ask({"type": "ping"})
    assert (pong["type"], pong["id"]) == ("pong", last)


def test_a_page_that_missed_nothing_gets_nothing_replayed(example: Example) -> None:
    page = example.open()
    example.publish(1)
    _, last = receive_numbers(page, 1)
    example.post("/pull")
    example.post("/plug")
    again = example.open(last)
    assert again.hello["data"]["recovered"] is True
    assert again.hello["data"]["replayed"] == 0
    following = example.publish(1)
    assert receive_numbers(again, 1)[0] == following


def test_a_page_that_was_away_for_too_long_is_not_recovered_and_reloads_from_the_list(serve: Serve) -> None:
    server = serve("resume_example", config={**CONFIG, "CARTOWS_HISTORY_SIZE": 3}, fresh=True)
    with contextlib.ExitStack() as stack:
        example = Example(server, stack)
        page = example.open()
        numbers = example.publish(1)
        _, last = receive_numbers(page, 1)
        example.post("/pull")
        numbers += example.publish(4)
        example.post("/plug")
        again = example.open(last)
        assert again.hello["data"]["recovered"] is False
        assert example.numbers() == numbers
        following = example.publish(1)
        assert receive_numbers(again, 1)[0] == following


@pytest.mark.skipif(not HAS_PROC, reason="only /proc shows when the cable has accepted")
def test_a_connection_while_the_cable_is_out_gets_no_answer(example: Example) -> None:
    example.post("/pull")
    before = set(example.server.fds().values())
    raw = example.raw()
    raw.send(raw.handshake("/ws"))
    wait_until(lambda: set(example.server.fds().values()) - before, "the cable to accept")
    example.post("/plug")
    with pytest.raises(ConnectionResetError):
        raw.socket.recv(1)
    assert example.open().hello["type"] == "connected"


def test_pulling_and_plugging_twice_equals_once(example: Example) -> None:
    page = example.open()
    example.post("/plug")
    assert page.ask({"type": "ping"})["type"] == "pong"
    for path in ("/pull", "/pull", "/plug", "/plug"):
        example.post(path)
    assert page.ended()[1].code == 1006
    assert example.open().ask({"type": "ping"})["type"] == "pong"


def test_the_cable_carries_close_frames_while_it_is_in(example: Example) -> None:
    page = example.open()
    example.server.await_clients(1)
    page.close()
    example.server.await_clients(0)


def test_the_cable_carries_more_than_a_buffer_full_whole_and_in_order(example: Example) -> None:
    page = example.open()
    assert example.server.flood(500, size=1000) == 500
    received = [page.receive()["data"]["task"]["number"] for _ in range(500)]
    assert received == list(range(500))


@pytest.mark.parametrize(
    ("origin", "status"), [(f"http://{HOST}:9", 101), (f"http://{HOST}", 101), ("http://elsewhere.example", 403), ("null", 403)]
)
def test_pages_of_this_host_may_connect_from_any_port_and_others_not(example: Example, origin: str, status: int) -> None:
    assert example.raw().open("/ws", {"Origin": origin}).status == status


def test_numbers_are_published_continuously_unless_paused(example: Example) -> None:
    page = example.open()
    last = example.state()["last"]
    assert example.post("/run")["running"] is True
    assert receive_numbers(page, 2)[0] == [last + 1, last + 2]
    assert example.post("/pause")["running"] is False


def test_the_list_has_every_number(example: Example) -> None:
    numbers = example.publish(3)
    assert example.numbers()[-3:] == numbers
    assert example.state()["last"] == numbers[-1]


@pytest.mark.parametrize("count", ["0", "-1", "1001"])
def test_a_count_out_of_bounds_is_refused(example: Example, count: str) -> None:
    response = example.server.post(f"/numbers?count={count}", None)
    assert response.status == 400
    assert "count" in response.json["message"]


def test_the_page_has_the_port_of_the_cable(example: Example) -> None:
    response = example.server.get("/")
    assert response.status == 200
    assert f"port = {example.port};" in response.body.decode()


def test_the_lines_of_the_readme_do_what_it_shows(example: Example) -> None:
    text = README.read_text(encoding="utf-8")
    lines = curl_lines(text)
    shown = [json.loads(line) for line in re.findall(r"^< (\{.*\})$", text, re.MULTILINE)]
    page = example.open()
    last = page.hello["id"]
    host = f"{HOST}:{example.server.port}"
    for line in lines:
        assert "plugged" in json.loads(curl(line, host))
    assert page.ended()[1].code == 1006
    again = example.open(last)
    received = [again.hello, *(again.receive() for _ in shown[1:])]
    assert [list(message) for message in received] == [list(message) for message in shown]
    assert [list(message.get("data", {})) for message in received] == [list(message.get("data", {})) for message in shown]
    assert received[0]["data"]["replayed"] == shown[0]["data"]["replayed"] == len(shown) - 1
