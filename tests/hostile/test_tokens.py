"""Tokens that must be refused, each one step from a good one, and that must not appear in the log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.hostile.attacks import ATTACKS, Assault
from tests.hostile.bystanders import Bystanders
from tests.hostile.own_server import APP, CONFIG, GUARDED, publisher, target_of
from tests.hostile.tokens import FORGED, NOW, Issuer
from tests.integration.conftest import Serve
from tests.support.harness import Server
from tests.support.raw_client import RawClient


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def server(serve: Serve, issuer: Issuer) -> Server:
    return serve(APP, config={**CONFIG, "HOSTILE_PUBLIC_KEY": issuer.pem.decode()})


def bearer(token: str) -> tuple[str, dict[str, str | None]]:
    return GUARDED, {"Authorization": f"Bearer {token}"}


def subprotocol(token: str) -> tuple[str, dict[str, str | None]]:
    return GUARDED, {"Sec-WebSocket-Protocol": f"cartows, bearer.{token}"}


def query(token: str) -> tuple[str, dict[str, str | None]]:
    return f"{GUARDED}?access_token={token}", {}


WAYS = (bearer, subprotocol, query)


@pytest.mark.parametrize("way", WAYS)
def test_a_good_token_is_accepted(server: Server, issuer: Issuer, way: Callable[[str], tuple[str, Any]]) -> None:
    raw = server.upgraded(*way(issuer.token()))
    server.publish("broadcast", "update")
    assert raw.receive()["type"] == "update"


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_is_refused(server: Server, issuer: Issuer, name: str) -> None:
    token = FORGED[name](issuer)
    start = len(server.log())
    for way in WAYS:
        raw = server.raw()
        response = raw.open(*way(token))
        assert response.status == 401, name
        assert response.json["code"] == "UNAUTHORIZED"
        if len(token) > 1:
            assert token not in response.body.decode()
    assert server.client_count() == 0
    # Not even a part of it may be logged: that would give a reader of the log the signature or the claims.
    pieces = [piece for piece in token.split(".") if len(piece) > 20]
    assert not [piece for piece in pieces if piece in server.log(start)]


def refreshed(raw: RawClient, token: Any) -> dict[str, Any]:
    raw.send_json({"type": "auth.refresh", "data": {"token": token}})
    return raw.receive()


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_refreshes_nothing(server: Server, issuer: Issuer, name: str) -> None:
    token = FORGED[name](issuer)
    start = len(server.log())
    raw = server.upgraded(*bearer(issuer.token()))
    answer = refreshed(raw, token)
    assert answer["type"] == "error", answer
    assert answer["data"]["code"] == "FORBIDDEN"
    assert len(token) < 2 or token not in json.dumps(answer)
    # The client keeps its identity, and may try again.
    assert refreshed(raw, issuer.token(exp=NOW + 900))["type"] == "auth.refreshed"
    assert len(token) < 2 or token not in server.log(start)


def test_another_users_good_token_refreshes_nothing(server: Server, issuer: Issuer) -> None:
    raw = server.upgraded(*bearer(issuer.token()))
    answer = refreshed(raw, issuer.token(sub="bob"))
    assert answer["data"]["code"] == "FORBIDDEN", answer
    assert refreshed(raw, issuer.token())["type"] == "auth.refreshed"


def test_a_client_is_closed_when_its_token_expires_and_the_token_is_not_accepted_again(server: Server, issuer: Issuer) -> None:
    token = issuer.token(exp=int(time.time()) + 2)
    raw = server.upgraded(*bearer(token))
    frames, closed = raw.ended()
    assert closed.code == 3005
    assert frames[-1].json["data"]["code"] == 3005
    assert server.raw().open(*bearer(token)).status == 401


def test_well_behaved_clients_do_not_notice_forged_tokens(server: Server, issuer: Issuer) -> None:
    (attack,) = [attack for attack in ATTACKS if attack.name == "forged tokens"]
    target = target_of(server, ("Authorization", f"Bearer {issuer.token()}"))._replace(path=GUARDED)
    assault = Assault(target, [attack], seed=1)
    with Bystanders(target, publisher(server)) as bystanders:
        assault.start()
        time.sleep(0.5)
        assault.stop()
    assert not assault.findings
    assert assault.ends[attack.name]["401"]
    assert not bystanders.report.problems()
