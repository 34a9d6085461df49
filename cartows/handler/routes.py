"""The URL rules of a route: the one for WebSocket, the one for what asks by HTTP, and the browser client's.

**Threads**: the one that makes the app; ``_send_script`` that of a request.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, Response, send_from_directory
from werkzeug.routing import Rule

__all__ = ["add_rules", "check_free"]

# The browser client.
_STATIC = Path(__file__).parents[1] / "static"
_SCRIPT = "cartows.js"

# HEAD and OPTIONS are those that Flask adds to a GET.
_METHODS = ("GET",)


def check_free(app: Flask, wanted: Rule) -> None:
    """Raise ValueError where a WebSocket route has the place of a new one already, which would never be reached."""
    default = app.url_map.default_subdomain
    for rule in app.url_map.iter_rules():
        if (
            rule.websocket
            and rule.rule == wanted.rule
            and rule.host == wanted.host
            and (rule.subdomain or default) == (wanted.subdomain or default)
        ):
            raise ValueError(
                f"The app {app.name!r} has a WebSocket route at {rule.rule!r} already, the endpoint {rule.endpoint!r}: give a "
                "second one another path="
            )


def add_rules(app: Flask, path: str, endpoint: str, view: Callable[..., Response], placed: dict[str, Any]) -> None:
    """Add the route, and that of the browser client below it."""
    app.view_functions[endpoint] = view
    for websocket in (True, False):
        rule = app.url_rule_class(path, endpoint=endpoint, websocket=websocket, methods=_METHODS, **placed)
        if not websocket:
            _answer_options(rule)
        app.url_map.add(rule)
    # A colon, since no endpoint of the app's own has one.
    script = f"{endpoint}:script"
    app.view_functions[script] = _send_script
    rule = app.url_rule_class(f"{path.rstrip('/')}/{_SCRIPT}", endpoint=script, methods=_METHODS, **placed)
    _answer_options(rule)
    app.url_map.add(rule)


def _answer_options(rule: Rule) -> None:
    """Let Flask answer OPTIONS, as on any route, so that what adds CORS headers to that works here, too."""
    rule.methods = {*(rule.methods or ()), "OPTIONS"}
    rule.provide_automatic_options = True  # type: ignore[attr-defined]


def _send_script(**_: Any) -> Response:
    """Return the browser client; a browser asks each time whether the copy that it has is current."""
    # The URL has no version, so the app's SEND_FILE_MAX_AGE_DEFAULT must not apply.
    response = send_from_directory(_STATIC, _SCRIPT, mimetype="text/javascript", max_age=0)
    # A page of another origin may load a module only where this allows it; nothing in this one is secret.
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response
