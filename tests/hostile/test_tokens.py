"""Tokens that must not let anybody in, each one step from a good one; and what the log says of them: nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.hostile.attacks import ATTACKS, Assault
from tests.hostile.bystanders import Bystanders
from tests.hostile.stand import APP, CONFIG, GUARDED, publisher, target_of
from tests.hostile.tokens import FORGED, NOW, Issuer
from tests.integration.conftest import Serve
from tests.support.clients import Raw
from tests.support.harness import Server


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
def test_a_good_token_lets_in(server: Server, issuer: Issuer, way: Callable[[str], tuple[str, Any]]) -> None:
    raw = server.upgraded(*way(issuer.token()))
    server.publish("broadcast", "news")
    assert raw.receive()["type"] == "news"


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_lets_nobody_in(server: Server, issuer: Issuer, name: str) -> None:
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
    # A part of it is a part too many: whoever reads the log has the signature, or the claims.
    pieces = [piece for piece in token.split(".") if len(piece) > 20]
    assert not [piece for piece in pieces if piece in server.log(start)]


def refreshed(raw: Raw, token: Any) -> dict[str, Any]:
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
    # Whoever it is, it stays who it was, and may try again.
    assert refreshed(raw, issuer.token(exp=NOW + 900))["type"] == "auth.refreshed"
    assert len(token) < 2 or token not in server.log(start)


def test_another_users_good_token_refreshes_nothing(server: Server, issuer: Issuer) -> None:
    raw = server.upgraded(*bearer(issuer.token()))
    answer = refreshed(raw, issuer.token(sub="bob"))
    assert answer["data"]["code"] == "FORBIDDEN", answer
    assert refreshed(raw, issuer.token())["type"] == "auth.refreshed"


def test_a_token_that_expires_is_put_out_and_its_old_self_is_not_let_in_again(server: Server, issuer: Issuer) -> None:
    token = issuer.token(exp=int(time.time()) + 2)
    raw = server.upgraded(*bearer(token))
    frames, closed = raw.ended()
    assert closed.code == 3005
    assert frames[-1].json["data"]["code"] == 3005
    assert server.raw().open(*bearer(token)).status == 401


def test_the_well_behaved_notice_nothing_of_forged_tokens(server: Server, issuer: Issuer) -> None:
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
