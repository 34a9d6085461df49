"""What `authenticate` returns or raises as a view would: that answer, and never a client; and users as objects."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.conftest import Serve
from tests.support.harness import BOTH_WAYS, FLASK, GTHREAD, Kind, Server
from tests.support.raw_client import Response

#: By the name of an answer: its status, a part of its body, and the close code in a flask-sock route.
ANSWERS: dict[str, tuple[int, str, int]] = {
    "tuple": (401, "the app's own 401", 3500),
    "response": (403, "the app's own 403", 3507),
    "redirect": (302, "/login", 3500),
    "json": (200, '"log in"', 3500),
    "teapot": (418, "the app's own 418", 3500),
    "busy": (503, "the app's own 503", 3504),
    "abort": (403, "aborted by the app", 3507),
    "handled": (422, "the app's own words", 3500),
    "current_user": (401, "UNAUTHORIZED", 3500),
    "credentials": (401, "UNAUTHORIZED", 3500),
    "nothing": (401, "UNAUTHORIZED", 3500),
    "none": (401, "UNAUTHORIZED", 3500),
}


@pytest.fixture(params=(*BOTH_WAYS, FLASK), ids=str)
def server(serve: Serve, request: pytest.FixtureRequest) -> Server:
    kind: Kind = request.param
    return serve("answers", kind=kind)


@pytest.fixture
def home(serve: Serve) -> Server:
    return serve("answers", kind=GTHREAD)


def check(response: Response, name: str) -> None:
    status, body, _ = ANSWERS[name]
    assert response.status == status
    assert body in response.body.decode()
    if name == "response":
        assert response.headers["X-From"] == "the app"
    if name == "redirect":
        assert response.headers["Location"].endswith("/login")


@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_view_answers_is_the_answer_before_the_upgrade(server: Server, name: str) -> None:
    check(server.raw().open(f"/ws?answer={name}"), name)
    # The same to a page that asks for the reason.
    check(server.get(f"/ws?answer={name}", headers={"X-Cartows-Explain": "1"}), name)
    assert server.client_count() == 0


@pytest.mark.parametrize("name", ANSWERS)
def test_in_a_flask_sock_route_it_is_a_close_code(home: Server, name: str) -> None:
    frames, closed = home.upgraded(f"/own?answer={name}", greeted=False).ended()
    assert (frames, closed.code) == ([], ANSWERS[name][2])
    assert closed.reason
    assert home.client_count() == 0


@pytest.mark.parametrize("name", ["fail", "true"])
def test_what_fails_or_names_no_user_is_a_server_error(home: Server, name: str) -> None:
    home.expected_tracebacks += ["the app's authenticate fails", "names no user"]
    assert home.raw().open(f"/ws?answer={name}").status == 500
    assert home.upgraded(f"/own?answer={name}", greeted=False).ended()[1].code == 1011
    assert home.client_count() == 0


@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize("answer", ["current_user", "credentials"])
def test_a_client_of_a_user_object_is_found_by_the_object_and_by_its_id(server: Server, path: str, answer: str) -> None:
    def upgraded() -> Any:
        return server.upgraded(f"{path}?answer={answer}", {"X-User": "ann"})

    ann = upgraded()
    assert server.post("/users/bob/send_to", None).json == {"result": 0}
    assert server.post("/users/ann/send_to", None).json == {"result": 1}
    assert ann.receive() == {"type": "hello"}
    assert server.post("/users/ann/reauthorize", None).json == {"result": 0}
    assert server.post("/users/ann/disconnect", None).json == {"result": 1}
    assert ann.ended()[1].code == 3503
    again = upgraded()
    assert server.post("/disconnect", {"identity": "alternative ann"}).json == {"closed": 1}
    assert again.ended()[1].code == 3503
