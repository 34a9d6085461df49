"""More sockets than threads, and more than descriptors."""

from __future__ import annotations

import re
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import EVERYWHERE, FLASK, FLASK_ATTACHED, GTHREAD, GTHREAD_ATTACHED, SYNC, Kind
from tests.support.raw_client import RawClient
from tests.support.waiting import wait_until


def test_twenty_sockets_on_four_threads_leave_all_four_to_http(serve: Serve) -> None:
    server = serve(kind=GTHREAD, threads=4)
    peers = [server.connect() for _ in range(20)]
    with ThreadPoolExecutor(4) as pool:
        # Four requests at once that end only when all four are being served.
        answers = list(pool.map(server.get, ["/remote/meet/4/beside-sockets"] * 4))
    assert [answer.status for answer in answers] == [200] * 4
    server.publish("broadcast", "app.refreshed")
    assert [peer.receive()["type"] for peer in peers] == ["app.refreshed"] * 20


def test_the_one_thread_of_a_sync_worker_serves_sockets_and_http(serve: Serve) -> None:
    server = serve(kind=SYNC)
    peers = [server.connect() for _ in range(20)]
    assert server.get("/remote/process").status == 200
    server.publish("broadcast", "app.refreshed")
    assert [peer.receive()["type"] for peer in peers] == ["app.refreshed"] * 20


@pytest.mark.parametrize(
    ("kind", "config", "own_threads"),
    [
        (GTHREAD, {}, True),
        (GTHREAD, {"CARTOWS_HANDOFF": True}, True),
        (GTHREAD_ATTACHED, {}, False),
    ],
    ids=["by itself", "forced", "attached"],
)
def test_the_request_thread_is_released_or_is_the_reader(
    serve: Serve, kind: Kind, config: dict[str, object], own_threads: bool
) -> None:
    server = serve(kind=kind, config=config)
    raws = [server.upgraded() for _ in range(4)]
    wait_until(
        lambda: server.threads() == server.idle_threads + (len(raws) if own_threads else 0),
        lambda: f"the right number of threads, {server.idle_threads} when idle; there are {server.threads()}",
    )


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_the_way_of_serving_is_logged_once(serve: Serve, kind: Kind) -> None:
    server = serve(kind=kind, fresh=True)
    for _ in range(3):
        server.connect()
    lines = [line for line in server.app_log() if re.search(r"hand(s|ed|ing)?[ -]?(it |them |sockets )?off|attach", line, re.I)]
    assert len(lines) == 1, server.app_log()
    assert ("attach" in lines[0].lower()) == kind.attached or "thread" in lines[0], lines


@pytest.mark.parametrize(
    ("kind", "nofile", "threads"),
    # Attached, a client may cost more than one descriptor; there are enough threads to reach the limit.
    [(GTHREAD, 128, 4), (GTHREAD_ATTACHED, 256, 130), (SYNC, 128, None), (FLASK, 128, None), (FLASK_ATTACHED, 128, None)],
    ids=str,
)
def test_more_sockets_than_the_file_limit_allows(serve: Serve, kind: Kind, nofile: int, threads: int | None) -> None:
    server = serve(kind=kind, nofile=nofile, threads=threads, fresh=True)
    worker = server.pid
    raws: list[RawClient] = []
    refusals = 0
    while refusals < 20:
        raw = server.raw()
        response = raw.open("/ws")
        if response.status == 101:
            assert raw.receive()["type"] == "connected"
            raws.append(raw)
            assert len(raws) < nofile
            assert not refusals
            continue
        refusals += 1
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert response.json["code"]
        raw.close()
    assert len(raws) >= nofile // 4, "a good part of the limit is for clients"
    # The worker lives and answers, and connected clients receive events.
    assert server.get("/remote/process").json["pid"] == worker
    server.publish("broadcast", "app.refreshed")
    assert {raw.receive()["type"] for raw in raws} == {"app.refreshed"}
    # The limit is logged at start, or with the first refusal; not with each.
    assert len([line for line in server.app_log() if line.startswith(("WARNING", "ERROR"))]) <= 2
    for raw in raws:
        raw.close()
    server.await_clients(0)
    server.upgraded()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited on Linux alone")
def test_clients_leave_the_server_the_threads_that_it_needs(serve: Serve) -> None:
    """gunicorn's worker starts the threads of its pool when they are first needed, and ends when one cannot be started."""
    server = serve(kind=GTHREAD, threads=8, address_space=900_000_000, cold=True, fresh=True)
    worker, answers = server.pid, Counter[int]()
    raws: list[RawClient] = []
    for _ in range(200):
        raw = server.raw()
        try:
            answers[raw.open("/ws").status] += 1
        except OSError:
            answers[0] += 1
        raws.append(raw)
    # All of the pool at once, beside the clients.
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status for answer in pool.map(server.get, ["/remote/meet/8/beside-clients"] * 8)} == {200}
    assert server.get("/remote/process").json["pid"] == worker
    assert server.log().count("Booting worker") == 1
    assert set(answers) == {101, 503} and answers[101] >= 10, answers
    assert "can't start new thread" not in server.log()
    for raw in raws:
        raw.close()
    # All of the pool at once.
    server.warm_up()
    # What it found, which of it decides, and which is to be raised.
    assert [line for line in server.app_log() if "serves up to" in line and "address space (RLIMIT_AS" in line]
    assert len([line for line in server.app_log() if line.startswith("WARNING") and "RLIMIT_AS" in line]) == 1
