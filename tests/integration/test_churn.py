"""Many clients that connect and leave at once while events flow; also with threads switched as often as Python can."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import EVERYWHERE, Kind, Server, event_ids
from tests.support.raw_client import CLOSE, Json, RawClient

VISITORS = 6
VISITS = 12


def visit(server: Server, seed: int) -> None:
    """Connect and leave in every way there is; in between, receive only events of one board, in order."""
    chance = random.Random(seed)
    board = f"b{seed % 3}"
    for _ in range(VISITS):
        with RawClient("127.0.0.1", server.port, server.tls.client if server.tls else None) as raw:
            response = raw.open(f"/ws?board_id={board}")
            assert response.status == 101, response
            assert raw.receive()["type"] == "connected"
            messages: list[Json] = [raw.receive() for _ in range(chance.randrange(6))]
            assert {message["data"]["board_id"] for message in messages} <= {board}
            ids = event_ids(messages)
            assert ids == sorted(set(ids))
            match chance.randrange(4):
                case 0:
                    raw.reset()
                case 1:
                    raw.finish()
                case 2:
                    raw.send_frame(CLOSE, b"\x03\xe8")
                case _:
                    pass  # closed with unread bytes


@pytest.mark.parametrize("config", [{}, {"SWITCH_INTERVAL": 1e-6}], ids=["", "switching"])
@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_clients_come_and_go_while_events_flow(serve: Serve, kind: Kind, config: dict[str, float]) -> None:
    server = serve(kind=kind, config=config)
    watcher = server.connect(max_queue=None)
    published = 0
    with ThreadPoolExecutor(VISITORS) as pool:
        visits = [pool.submit(visit, server, seed) for seed in range(VISITORS)]
        while not all(visit.done() for visit in visits):
            for board in range(3):
                published += server.flood(2, 300, f"b{board}")
        for done in visits:
            done.result()
    (messages,) = server.received(watcher)
    assert len(messages) == published
    ids = event_ids(messages)
    assert ids == list(range(ids[0], ids[0] + published))
    server.await_clients(1)
