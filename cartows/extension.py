"""The Flask extension: one line adds the WebSocket route to an app.

**Threads**: ``init_app`` and the decorators on the thread that makes the app, the route on request threads.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, Unpack, cast, overload

from flask import Blueprint, Flask, Request, Response, request
from flask.blueprints import BlueprintSetupState
from flask.json.provider import DefaultJSONProvider
from flask_sock import Sock

from .auth.base import Authenticator
from .client.client import Client
from .encoding import AppJson
from .errors import OptionsError
from .handler.admission import EXTENSIONS
from .handler.handler import Handler
from .handler.routes import add_rules, check_free
from .hooks import AppHooks, Hooks
from .hub.hub import Hub
from .message import Message
from .options import OptionArguments, Options, check_names
from .servers.detection import configured_workers

__all__ = ["CartoWS"]

# What the app's own functions take and return, for type checkers. An app may have its own classes of clients and requests.
ClientT = TypeVar("ClientT", bound=Client)
RequestT = TypeVar("RequestT", bound=Request)
AuthenticatorT = TypeVar("AuthenticatorT", bound=Authenticator)
IdentityT = TypeVar("IdentityT")
ResultT = TypeVar("ResultT")
AllowedT = TypeVar("AllowedT", bound=bool | Coroutine[Any, Any, bool])
AcceptedT = TypeVar("AcceptedT", bound=int | Coroutine[Any, Any, int | None] | None)


class CartoWS:
    """Serve a hub's clients from a Flask app: ``CartoWS(app, hub)``, or ``CartoWS(hub=hub)`` and ``init_app`` later.

    Args:
        app: The app, or a Blueprint: then the route is below the blueprint's ``url_prefix`` in each app that registers it.
        hub: The hub; by default a new one, which is ``ws.hub``.
        client_class: The class of the clients, for a protocol of the app's own.
        **options: Settings by the names of the fields of ``Options``; they win over ``app.config``.

    Raises:
        OptionsError: A setting is invalid.
        TypeError: An argument is of another kind, as in ``CartoWS(hub, app)``.
        ValueError: The app has a WebSocket route at that path already.
    """

    def __init__(
        self,
        app: Flask | Blueprint | None = None,
        hub: Hub | None = None,
        *,
        client_class: type[Client] = Client,
        **options: Unpack[OptionArguments],
    ) -> None:
        _check_arguments(app, hub, client_class)
        check_names(options)
        self.hub = hub if hub is not None else Hub()
        self.client_class = client_class
        self._overrides = options
        self._handlers: list[Handler] = []
        self._apps: list[Flask] = []
        self._hooks = Hooks()
        if app is not None:
            self.init_app(app)

    @property
    def handler(self) -> Handler:
        """The handler of the app that was initialised last.

        Raises:
            RuntimeError: ``init_app`` has not been called.
        """
        if not self._handlers:
            raise RuntimeError("This CartoWS serves no app yet: call init_app(app) first")
        return self._handlers[-1]

    # The app's own functions ----------------------------------------------------------------------------------------

    def on(self, type: str) -> Callable[[Callable[[ClientT, Message], ResultT]], Callable[[ClientT, Message], ResultT]]:
        """Register the handler of a message type, as a decorator: ``@ws.on("chat.say")``.

        The handler is called as ``function(client, message)`` for each message of the type, on the client's reader thread in
        an app context. An exception is logged and answered with ``error INTERNAL``; the client stays connected.

        Args:
            type: The ``type`` of the messages.

        Raises:
            ValueError: The type has a handler, or is answered by cartows itself.
        """

        def add(function: Callable[[ClientT, Message], ResultT]) -> Callable[[ClientT, Message], ResultT]:
            self._hooks.add_message(type, function)
            return function

        return add

    def on_connect(self, function: Callable[[ClientT], AcceptedT]) -> Callable[[ClientT], AcceptedT]:
        """Call a function for each client before it receives its first event, as a decorator.

        Called as ``function(client)`` on the client's reader thread in an app context; ``client.identity`` is what
        ``authenticate`` returned. An exception is logged and answered with ``error INTERNAL``, and the client stays
        connected: return False where a check fails.

        Args:
            function: Returns False to refuse the client with close code 3507, or another close code to refuse it with. Any
                other result accepts it.
        """
        self._hooks.connect.append(function)
        return function

    def on_disconnect(self, function: Callable[[ClientT], ResultT]) -> Callable[[ClientT], ResultT]:
        """Call a function once for each client that has gone, as a decorator.

        Called as ``function(client)`` on the client's reader thread in an app context, when the client is no longer in
        ``hub.get_clients()``. Not called for a client that ``on_connect`` refused. An exception is logged. A broadcast in it
        reaches no client once the hub was shut down: its result is not accepted then, and no HubClosed is raised.

        Args:
            function: Called with the client; ``client.close_code`` and ``client.close_reason`` tell how the connection ended.
                Its result is ignored.
        """
        self._hooks.disconnect.append(function)
        return function

    @overload
    def authenticate(self, function: AuthenticatorT) -> AuthenticatorT: ...

    @overload
    def authenticate(self, function: Callable[[RequestT], ResultT]) -> Callable[[RequestT], ResultT]: ...

    def authenticate(self, function: Any) -> Any:
        """Decide who may connect, as a decorator or with an Authenticator: ``ws.authenticate(JWTAuth(secret))``.

        Called as ``function(request)`` before the upgrade, on the request's thread and in its context: ``session`` and ``g``
        are what they are in a view. Also called for a page that asks by HTTP why it was refused, so it must not consume
        anything. An exception becomes a 500.

        Args:
            function: Returns the identity, preferably the user's id; or ``Credentials``; or None to answer with 401, as for a
                user whose ``is_authenticated`` is false. What a view returns to refuse, a response or a body with a status,
                is the answer. The identity becomes ``client.identity``; identities compare as strings, a user object by its
                ``get_id()``. Or an ``Authenticator`` in place of it.

        Raises:
            OptionsError: The ``recheck_interval`` of an Authenticator is invalid.
            TypeError: It is neither a function nor an Authenticator.
        """
        if isinstance(function, Authenticator):
            interval = function.recheck_interval
            if interval is not None and not 0 < interval < math.inf:
                raise OptionsError(
                    f"recheck_interval={interval!r} cannot be used: it must be a number of seconds above 0, or None"
                )
            function.init_hub(self.hub)
            for app in self._apps:
                function.check_app(app)
        elif not callable(function) or (isinstance(function, type) and issubclass(function, Authenticator)):
            raise TypeError(f"ws.authenticate takes a function or an instance of an Authenticator, not {function!r}")
        self._hooks.authenticate = function
        return function

    def authorize(
        self, function: Callable[[IdentityT, str | None, str | None], AllowedT]
    ) -> Callable[[IdentityT, str | None, str | None], AllowedT]:
        """Decide which rooms a client may subscribe to, as a decorator.

        Called as ``function(identity, key, value)``. For each filter of the query it is called on the request's thread and in
        its context, and a refusal is answered with 403. For each room of a ``subscribe`` message it is called on the client's
        reader thread in an app context, and a refusal is answered with ``error FORBIDDEN``. An exception refuses the room.

        Args:
            function: Returns whether the client may subscribe to the room. A key and a value of None stand for everything.

        Raises:
            TypeError: It is not a function.
        """
        if not callable(function):
            # None would admit every client.
            raise TypeError(f"ws.authorize takes a function, not {function!r}")
        self._hooks.authorize = function
        return function

    def project_of_board(self, function: Callable[[IdentityT], ResultT]) -> Callable[[IdentityT], ResultT]:
        """Find the project of task events that do not carry it, as a decorator.

        Called as ``function(board_id)`` once for each such event, on the publisher's thread in whatever context it has.

        Args:
            function: Returns the id of the board's project, or None where there is none.
        """
        self.hub.project_of_board = function
        return function

    def hooks_of(self, app: Flask) -> AppHooks:
        """Return the registered functions as they are called for one app, for a ``Handler(hooks=...)``.

        Args:
            app: The app in whose context they are called.
        """
        return AppHooks(self._hooks, app, self.hub.logger)

    # Apps -----------------------------------------------------------------------------------------------------------

    def init_app(self, app: Flask | Blueprint) -> None:
        """Add the route to an app, or to every app that registers this blueprint.

        Args:
            app: The app or the Blueprint. Settings are read from its ``CARTOWS_*`` config keys.

        Raises:
            OptionsError: A setting is invalid.
            TypeError: It is neither.
            ValueError: The app has a WebSocket route at that path already.
        """
        _check_arguments(app, self.hub, self.client_class)
        if isinstance(app, Blueprint):
            app.record(self._serve_blueprint)
        else:
            self._serve(app, "", "", {})

    def _serve_blueprint(self, state: BlueprintSetupState) -> None:
        # By this prefix Flask finds the ``before_request`` and the like of the blueprint, a nested or renamed one too.
        blueprint = f"{state.name_prefix}.{state.name}".lstrip(".")
        placed = {"subdomain": state.subdomain, "defaults": state.url_defaults or None}
        self._serve(cast(Flask, state.app), state.url_prefix or "", f"{blueprint}.", placed)

    def _serve(self, app: Flask, prefix: str, blueprint: str, placed: dict[str, Any]) -> None:
        options = self._options(app)
        if app.url_map.host_matching != (options.host is not None):
            raise OptionsError(
                f"CARTOWS_HOST={options.host!r} (host=) does not fit the app {app.name!r}: an app made with host_matching=True "
                "needs a host, since a route without one matches nothing there; any other app needs None"
            )
        path = f"{prefix.rstrip('/')}{options.path}"
        placed = {**placed, "host": options.host}
        check_free(app, app.url_rule_class(path, websocket=True, **placed))
        self.hub.adopt_options(options)
        if options.redis_url is not None and options.redis_url != self.hub.options.redis_url:
            raise OptionsError(
                "CARTOWS_REDIS_URL comes too late for this hub, which was made with options of its own, is in use already, or "
                "belongs to another app without that URL: make it with Hub(options=Options(redis_url=...)), or give each app a "
                "hub of its own"
            )
        if self.hub.enc_hook is None:
            self.hub.enc_hook = AppJson(app, DefaultJSONProvider)
        handler = Handler(self.hub, options=options, client_class=self.client_class, hooks=self.hooks_of(app))
        endpoint = f"{blueprint}cartows"
        if endpoint in app.view_functions:
            endpoint += path.replace("/", "_")
        if endpoint in app.view_functions:
            raise ValueError(f"The app {app.name!r} has a view named {endpoint!r} already; give this route another path=")
        add_rules(app, path, endpoint, self._view(handler), placed)
        app.extensions["cartows"] = self
        ours = app.extensions.setdefault(EXTENSIONS, [])
        if self not in ours:
            ours.append(self)
        self._handlers.append(handler)
        self._apps.append(app)
        if isinstance(self._hooks.authenticate, Authenticator):
            self._hooks.authenticate.check_app(app)
        handler.log_limits(path)
        workers = configured_workers()
        if workers > 1 and self.hub.options.redis_url is None:
            _warn_of_workers(handler.logger, str(workers))

    def _options(self, app: Flask) -> Options:
        return Options.from_config(app.config, self.hub.own_options, **self._overrides)

    def _view(self, handler: Handler) -> Callable[..., Response]:
        captured = _Capture()
        Sock().route(handler.options.path, bp=captured)(handler.handle_websocket)
        warned, alone = False, self.hub.options.redis_url is None

        def cartows_view(**_: Any) -> Response:
            """Open a WebSocket connection, or say why it is refused."""
            nonlocal warned
            if alone and not warned and request.environ.get("wsgi.multiprocess") and configured_workers() == 1:
                warned = True
                _warn_of_workers(handler.logger, "several")
            return handler.upgrade(captured.view)

        return cartows_view


def _check_arguments(app: object, hub: object, client_class: object) -> None:
    """Raise TypeError where an argument of CartoWS is of another kind."""
    if isinstance(app, Hub):
        raise TypeError("CartoWS(hub, app): the app comes first, CartoWS(app, hub)")
    if app is not None and not isinstance(app, (Flask, Blueprint)):
        raise TypeError(f"CartoWS(app, hub): the app is a Flask app or a Blueprint, not {app!r}")
    if hub is not None and not isinstance(hub, Hub):
        raise TypeError(f"CartoWS(app, hub): the hub is a cartows.Hub, not {hub!r}")
    if not isinstance(client_class, type) or not issubclass(client_class, Client):
        raise TypeError(f"CartoWS(client_class={client_class!r}): it is a class derived from cartows.Client")


class _Capture:
    """A blueprint, as far as flask-sock uses one, that keeps the view instead of registering it."""

    view: Callable[[], Response]

    def route(self, path: str, **options: Any) -> Callable[[Callable[[], Response]], None]:
        def keep(view: Callable[[], Response]) -> None:
            self.view = view

        return keep


def _warn_of_workers(logger: logging.Logger, workers: str) -> None:
    """Warn that several processes serve one app without a broker between them."""
    logger.warning(
        "cartows: the server runs %s worker processes, and nothing connects them: an event broadcast in one worker reaches "
        "only the clients that are connected to that worker. Set CARTOWS_REDIS_URL, or run one worker with threads, e.g. "
        "gunicorn -w 1 -k gthread --threads 8 app:app",
        workers,
    )
