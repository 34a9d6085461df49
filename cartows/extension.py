"""The Flask extension: one line puts the WebSocket route into an app.

Threads: ``init_app`` on the thread that makes the app, the route on request threads.
Locks: none.
Blocks: never.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from flask import Blueprint, Flask, Response, request, send_from_directory
from flask.blueprints import BlueprintSetupState
from flask_sock import Sock

from .auth.base import Authenticator
from .client.client import Client
from .errors import OptionsError
from .handler.admission import EXTENSIONS
from .handler.handler import Handler
from .hooks import AppHooks, Hooks
from .hub.hub import Hub
from .options import Options
from .servers.base import configured_workers

__all__ = ["CartoWS"]

# The browser's side.
_STATIC = Path(__file__).with_name("static")
SCRIPT = "cartows.js"

Function = TypeVar("Function", bound=Callable[..., Any])
Authenticated = TypeVar("Authenticated", bound="Callable[..., Any] | Authenticator")


class CartoWS:
    """Serve a hub's clients from an app: ``CartoWS(app, hub)``, or ``CartoWS(hub=hub)`` and ``init_app`` later.

    Makes its own hub when given none. Keyword arguments are settings and win over ``app.config``. Given a Blueprint, the route
    stands below the blueprint's ``url_prefix`` in each app that registers it.
    """

    def __init__(
        self,
        app: Flask | Blueprint | None = None,
        hub: Hub | None = None,
        *,
        client_class: type[Client] = Client,
        **options: Any,
    ) -> None:
        self.hub = hub if hub is not None else Hub()
        self.client_class = client_class
        self._overrides = options
        self._handlers: list[Handler] = []
        self._hooks = Hooks()
        if app is not None:
            self.init_app(app)

    @property
    def handler(self) -> Handler:
        """The handler of the app that was initialised last."""
        if not self._handlers:
            raise RuntimeError("This CartoWS serves no app yet: call init_app(app) first")
        return self._handlers[-1]

    # The app's own functions ----------------------------------------------------------------------------------------

    def on(self, type: str) -> Callable[[Function], Function]:
        """Have ``function(client, message)`` called for each message of a type that a client sends.

        Runs on the client's reader thread in an app context. What it raises is logged and answered with ``error INTERNAL``.
        Raises ValueError for a type that has a handler, or that cartows answers itself.
        """

        def add(function: Function) -> Function:
            self._hooks.add_message(type, function)
            return function

        return add

    def on_connect(self, function: Function) -> Function:
        """Have ``function(client)`` called for each client before it hears anything; False, or a close code, refuses it.

        Runs on the client's reader thread in an app context; ``client.identity`` is what ``authenticate`` returned. What it
        raises is logged and answered with ``error INTERNAL``, and the client stays: refuse whom you could not check.
        """
        self._hooks.connect.append(function)
        return function

    def on_disconnect(self, function: Function) -> Function:
        """Have ``function(client)`` called once for each client that has gone; ``client.close_code`` says how.

        It is in ``hub.get_clients()`` no more.
        Runs on the client's reader thread in an app context. What it raises is logged.
        """
        self._hooks.disconnect.append(function)
        return function

    def authenticate(self, function: Authenticated) -> Authenticated:
        """Have ``function(request) -> identity | None`` asked who connects; None is answered with 401.

        Takes an Authenticator as well, such as ``cartows.auth.JWTAuth(...)``; a function may return Credentials, too.

        Runs on the request's thread and in its context, before the upgrade: ``session`` and ``g`` are what they are in a view.
        Also asked for a page that was refused and wants to know why, by HTTP: so it must not use anything up.
        The identity becomes ``client.identity``, best the user's id: others know it by its text. What it raises becomes a 500.
        Raises OptionsError for an Authenticator that cannot work.
        """
        if isinstance(function, Authenticator):
            every = function.recheck_interval
            if every is not None and not 0 < every < math.inf:
                raise OptionsError(
                    f"recheck_interval={every!r} cannot be used: it must be a number of seconds above 0, or None"
                )
            function.init_hub(self.hub)
        self._hooks.authenticate = function
        return function

    def authorize(self, function: Function) -> Function:
        """Have ``function(identity, key, value) -> bool`` asked who may hear a room; (None, None) is to hear everything.

        Asked for the filters of the query, on the request's thread and in its context: no is 403. Asked for each room of a
        ``subscribe``, on the client's reader thread in an app context: no is ``error FORBIDDEN``. Raising is no.
        """
        self._hooks.authorize = function
        return function

    def project_of_board(self, function: Function) -> Function:
        """Have ``function(board_id)`` asked for the project of a task event that does not carry it; None where there is none.

        Runs on the publisher's thread in whatever context it has, once for each such event.
        """
        self.hub.project_of_board = function
        return function

    def hooks_of(self, app: Flask) -> AppHooks:
        """Return these functions as they are called for one app."""
        return AppHooks(self._hooks, app, self.hub.logger)

    # Apps -----------------------------------------------------------------------------------------------------------

    def init_app(self, app: Flask | Blueprint) -> None:
        """Put the route into an app, or into every app that registers this blueprint.

        Raises OptionsError for a setting that cannot work, ValueError when the app has a cartows route at that path already.
        """
        if isinstance(app, Blueprint):
            app.record(self._serve_blueprint)
        else:
            self._serve(app, "", "")

    def _serve_blueprint(self, state: BlueprintSetupState) -> None:
        # By this prefix Flask finds the blueprint's own before_request and its like, nested and renamed ones too.
        blueprint = f"{state.name_prefix}.{state.name}".lstrip(".")
        self._serve(cast(Flask, state.app), state.url_prefix or "", f"{blueprint}.")

    def _serve(self, app: Flask, prefix: str, blueprint: str) -> None:
        options = self._options(app)
        self.hub.adopt_options(options)
        if options.redis_url is not None and options.redis_url != self.hub.options.redis_url:
            raise OptionsError(
                "CARTOWS_REDIS_URL comes too late for this hub, which was made with options of its own, is in use already, or "
                "belongs to another app without that URL: make it with Hub(options=Options(redis_url=...)), or give each app a "
                "hub of its own"
            )
        if self.hub.enc_hook is None:
            self.hub.enc_hook = lambda value: app.json.default(value)  # type: ignore[attr-defined]
        handler = Handler(self.hub, options=options, client_class=self.client_class, hooks=self.hooks_of(app))
        path = f"{prefix.rstrip('/')}{options.path}"
        endpoint = f"{blueprint}cartows"
        if endpoint in app.view_functions:
            endpoint += path.replace("/", "_")
        if endpoint in app.view_functions:
            raise ValueError(f"The app {app.name!r} has a cartows route at {path!r} already; give another one its own path=")
        app.view_functions[endpoint] = self._view(handler)
        for websocket in (True, False):
            # No methods named: every request to the path gets an answer that says what is wrong with it.
            app.url_map.add(app.url_rule_class(path, endpoint=endpoint, websocket=websocket))
        # A colon, since no other endpoint is made with one.
        script = f"{endpoint}:script"
        app.view_functions[script] = send_script
        app.url_map.add(app.url_rule_class(f"{path.rstrip('/')}/{SCRIPT}", endpoint=script, methods=("GET",)))
        app.extensions["cartows"] = self
        ours = app.extensions.setdefault(EXTENSIONS, [])
        if self not in ours:
            ours.append(self)
        self._handlers.append(handler)
        handler.logger.info("cartows: %s serves up to %d clients per process", path, handler.max_clients)
        workers = configured_workers()
        if workers > 1 and self.hub.options.redis_url is None:
            warn_of_workers(handler.logger, str(workers))

    def _options(self, app: Flask) -> Options:
        return Options.from_config(app.config, self.hub.own_options, **self._overrides)

    def _view(self, handler: Handler) -> Callable[..., Response]:
        taken = _Taken()
        Sock().route(handler.options.path, bp=taken)(handler.handle_websocket)
        warned, alone = False, self.hub.options.redis_url is None

        def cartows_view(**_: Any) -> Response:
            nonlocal warned
            if alone and not warned and request.environ.get("wsgi.multiprocess") and configured_workers() == 1:
                warned = True
                warn_of_workers(handler.logger, "several")
            return handler.upgrade(taken.view)

        return cartows_view


def send_script(**_: Any) -> Response:
    """Answer with the browser client, which a browser keeps for as long as it has not changed."""
    # Its URL has no version: the app's own SEND_FILE_MAX_AGE_DEFAULT is for others.
    response = send_from_directory(_STATIC, SCRIPT, mimetype="text/javascript", max_age=0)
    # A module of another host is run only where that host agrees; there is nothing secret in this one.
    response.headers["Access-Control-Allow-Origin"] = "*"
    return response


class _Taken:
    """Stand where flask-sock expects a blueprint, and take the view it has made instead of registering it."""

    view: Callable[[], Response]

    def route(self, path: str, **options: Any) -> Callable[[Callable[[], Response]], None]:
        def take(view: Callable[[], Response]) -> None:
            self.view = view

        return take


def warn_of_workers(logger: logging.Logger, workers: str) -> None:
    """Say what goes wrong when several processes serve one app without a broker between them."""
    logger.warning(
        "cartows: the server runs %s worker processes, and nothing connects them: an event broadcast in one worker reaches "
        "only the browsers that happen to be connected to that worker, and all others miss it, silently. Run one worker with "
        "threads, e.g. gunicorn -w 1 -k gthread --threads 8 app:app",
        workers,
    )
