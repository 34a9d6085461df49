"""The app around cartows: its contexts, sessions, factories and blueprints work as before."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, EVERYWHERE, GTHREAD, HANDED_OFF, Kind, Server
from tests.support.raw_client import Response
from tests.support.waiting import wait_until


@pytest.fixture(params=EVERYWHERE, ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    return serve("isolation", kind=request.param)


def test_the_context_and_its_database_are_released_while_the_socket_is_open(server: Server) -> None:
    before = server.get("/seen").json
    peers = [server.connect() for _ in range(3)]

    def is_released() -> bool:
        now = server.get("/seen").json
        return bool(now["total_lent"] == before["total_lent"] + 3 and now["lent"] == 0)

    wait_until(is_released, lambda: f"the sessions to be released: {server.get('/seen').json}")
    assert server.client_count() == 3
    torn_down = [entry for entry in server.get("/seen").json["seen"] if "torn down with" in entry]
    assert [entry["torn down with"] for entry in torn_down] == [None] * len(torn_down)
    assert [peer.ask({"type": "ping"})["type"] for peer in peers] == ["pong"] * 3


def test_the_context_of_a_refused_request_is_released_too(server: Server) -> None:
    assert server.get("/ws").status == 400
    wait_until(lambda: server.get("/seen").json["lent"] == 0, "the session to be released")


def test_hooks_and_sessions_see_the_upgrade_request(server: Server) -> None:
    cookie = server.post("/login/ada", None).headers["Set-Cookie"].split(";")[0]
    server.connect("/ws?board_id=b1&board_id=b2", additional_headers={"Cookie": cookie})
    seen = [entry for entry in server.get("/seen").json["seen"] if "user" in entry]
    assert seen[-1]["user"] == "ada"
    assert seen[-1]["board"] == ["b1", "b2"]
    assert seen[-1]["endpoint"]


def refused(server: Server) -> Response:
    return server.raw().open("/ws", {"X-Refuse": "yes"})


def test_a_request_hook_may_refuse_with_its_own_response(server: Server) -> None:
    response = refused(server)
    assert response.status == 418
    assert response.json == {"code": "NOT_TODAY", "message": "the app's own message"}
    server.await_clients(0)


def test_nothing_global_is_touched(server: Server) -> None:
    found = server.get("/untouched").json
    assert found == {
        "globals_unchanged": True,
        "signals_unchanged": True,
        "own_handlers": [],
        "own_level": 0,
        "propagates": True,
        "logger_class": True,
    }


@pytest.mark.parametrize("kind", BOTH_WAYS, ids=str)
def test_an_app_made_by_a_factory(serve: Serve, kind: Kind) -> None:
    server = serve("factory:create_app()", kind=kind)
    peer = server.connect("/ws?board_id=b1")
    server.publish("broadcast_task_deleted", "t1", "b1")
    assert peer.receive()["type"] == "task.deleted"


def test_the_config_of_a_factory_reaches_its_hub(serve: Serve) -> None:
    server = serve("factory:create_app()", config={"CARTOWS_PING_PERIOD": 20, "CARTOWS_MAX_CLIENTS": 1})
    assert server.connect().hello["data"]["ping_interval_ms"] == 20_000
    assert server.raw().open("/ws").status == 503


@pytest.mark.parametrize("kind", EVERYWHERE, ids=str)
def test_a_blueprint_with_a_prefix(serve: Serve, kind: Kind) -> None:
    server = serve("in_blueprint", kind=kind)
    peer = server.connect("/api/live/ws?board_id=b1")
    server.publish("broadcast_task_deleted", "t1", "b1")
    assert peer.receive()["type"] == "task.deleted"
    assert server.get("/ws").status == 404
    assert server.get("/api/live/ws").status == 400
    assert server.get("/api/live/where").body == b"/api/live/where"


def test_the_app_of_a_blueprint_configures_it(serve: Serve) -> None:
    server = serve("in_blueprint", config={"CARTOWS_PING_PERIOD": 20, "CARTOWS_MAX_CLIENTS": 1})
    assert server.connect("/api/live/ws").hello["data"]["ping_interval_ms"] == 20_000
    assert server.raw().open("/api/live/ws").status == 503


@pytest.mark.parametrize("kind", HANDED_OFF, ids=str)
def test_two_apps_in_one_process_do_not_receive_each_others_events(serve: Serve, kind: Kind) -> None:
    server = serve("two_apps", kind=kind)
    server.post("/b/remote/publish", [["broadcast", ["warm"], {}]])
    server.record_idle()
    first, second = server.connect("/a/ws"), server.connect("/b/ws")
    for app in ("a", "b"):
        server.post(f"/{app}/remote/publish", [["broadcast", [f"from.{app}"], {}]])
        server.post(f"/{app}/remote/publish", [["broadcast_message", [{"$message": ["fence", app]}], {}]])
    assert [first.receive()["type"], first.receive()["data"]] == ["from.a", "a"]
    assert [second.receive()["type"], second.receive()["data"]] == ["from.b", "b"]
    assert server.get("/a/remote/hub").json["clients"] == 1
    assert server.get("/b/remote/hub").json["clients"] == 1
    assert server.get("/ws").status == 404


@pytest.mark.parametrize("kind", [GTHREAD], ids=str)
def test_the_error_pages_and_routes_of_the_app_are_unchanged(serve: Serve, kind: Kind) -> None:
    server = serve("isolation", kind=kind)
    assert server.get("/nowhere").status == 404
    assert server.get("/nowhere").headers.get_content_type() == "text/html"
    assert server.get("/login/ada").status == 405
    assert server.get("/login/ada").headers.get_content_type() == "text/html"
