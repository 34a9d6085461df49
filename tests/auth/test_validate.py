"""The app's own check of a token's claims, and the warning where an app with Flask-JWT-Extended has none."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask, request
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token

from cartows import CartoWS, Hub
from cartows.auth import JWTAuth
from cartows.errors import AuthError, CartowsError, OptionsError
from tests.support.tokens import OTHER_SECRET, SECRET, refusal, signed

REFUSED = "The app does not accept the token."


def test_the_app_accepts_or_refuses_the_claims() -> None:
    seen: list[Any] = []

    def validate(claims: dict[str, Any]) -> Any:
        seen.append(claims)
        return claims.get("answer")

    auth = JWTAuth(SECRET, validate=validate)
    assert auth.refresh(signed(answer=True)).identity == "ann"
    assert refusal(auth, signed(answer=False)) == REFUSED
    # What looks up a session and finds none returns None.
    assert refusal(auth, signed()) == REFUSED
    assert [each["sub"] for each in seen] == ["ann"] * 3
    # Only a token that is otherwise valid comes before the app.
    for bad in (signed(OTHER_SECRET), signed(exp=1), signed(sub="")):
        refusal(auth, bad)
    assert len(seen) == 3


def test_the_apps_own_reason_reaches_the_client() -> None:
    def validate(claims: Any) -> bool:
        raise AuthError("The token was revoked.")

    assert refusal(JWTAuth(SECRET, validate=validate), signed()) == "The token was revoked."


@pytest.mark.parametrize(
    "answer", [1, 0, "yes", "", ("no", 403), object(), {"user": 1}], ids=lambda answer: type(answer).__name__
)
def test_an_answer_that_is_no_decision_is_an_error_of_the_app(answer: Any) -> None:
    with pytest.raises(CartowsError, match=f"returned a {type(answer).__name__}: it must return True"):
        JWTAuth(SECRET, validate=lambda claims: answer).refresh(signed())


async def validate_later(claims: Any) -> bool:
    return False


@pytest.mark.parametrize("validate", [validate_later, True, "is_accepted"])
def test_a_check_that_cannot_be_called_fails_when_it_is_given(validate: Any) -> None:
    with pytest.raises(OptionsError, match=r"JWTAuth\(validate="):
        JWTAuth(SECRET, validate=validate)


# Beside Flask-JWT-Extended ----------------------------------------------------------------------------------------------


def app_with(key: str = SECRET) -> Flask:
    app = Flask("board")
    app.config["JWT_SECRET_KEY"] = key
    return app


def test_the_extension_is_warned_of_whichever_is_made_first(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "cartows")

    def warned() -> int:
        found = sum("board' uses Flask-JWT-Extended" in each.message for each in caplog.records)
        caplog.clear()
        return found

    # The authenticator last, the route last, and the extension last, which the first request finds.
    app = app_with()
    JWTManager(app)
    CartoWS(app, Hub()).authenticate(JWTAuth(SECRET))
    assert warned() == 1
    app, ws = app_with(), CartoWS(hub=Hub())
    JWTManager(app)
    ws.authenticate(JWTAuth(SECRET))
    assert warned() == 0
    ws.init_app(app)
    assert warned() == 1
    app = app_with()
    ws = CartoWS(app, Hub())
    ws.authenticate(JWTAuth(SECRET))
    JWTManager(app)
    assert warned() == 0
    for _ in range(2):
        assert app.test_client().get("/ws", headers={"X-Cartows-Explain": "1"}).status_code == 401
    assert warned() == 1


def test_nothing_is_warned_of_where_the_app_checks_or_has_no_such_extension(caplog: pytest.LogCaptureFixture) -> None:
    app = app_with()
    JWTManager(app)
    CartoWS(app, Hub()).authenticate(JWTAuth(SECRET, validate=lambda claims: True))
    other = app_with()
    CartoWS(other, Hub()).authenticate(JWTAuth(SECRET))
    for each in (app, other):
        each.test_client().get("/ws", headers={"X-Cartows-Explain": "1"})
    assert "Flask-JWT-Extended" not in caplog.text


def test_the_tokens_of_the_extension_are_told_apart_by_their_claims() -> None:
    app = app_with()
    JWTManager(app)
    with app.test_request_context("/ws"):
        access, refresh = create_access_token("ann"), create_refresh_token("ann")
        plain = JWTAuth(SECRET)
        checked = JWTAuth(SECRET, validate=lambda claims: claims.get("type") == "access" and request.path == "/ws")
        assert plain.refresh(refresh).identity == plain.refresh(access).identity == checked.refresh(access).identity == "ann"
        assert refusal(checked, refresh) == REFUSED
