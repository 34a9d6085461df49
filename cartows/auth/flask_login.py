"""Flask-Login's sessions as credentials: a user who is logged in may connect, and a logout disconnects.

**Threads**: ``authenticate`` on the request's; ``is_valid`` on the rechecker's; a logout on that of the request that logs out.
**Blocks**: as long as the app's user loader does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, ref

from flask import current_app

from ..errors import AuthError, OptionsError
from ..websocket.close_codes import CloseCode
from .base import Authenticator, Credentials, Disconnector

__all__ = ["FlaskLoginAuth"]

logger = logging.getLogger("cartows")


class FlaskLoginAuth(Authenticator):
    """Admit users who are logged in with Flask-Login: ``ws.authenticate(FlaskLoginAuth())``.

    The identity is the user's id as the session holds it, which is its ``get_id()``. ``logout_user()`` disconnects every client
    of the user, with ``redis_url`` in all processes, with code 3005; another browser in which that user is still logged in
    reconnects by itself. Browsers send cookies with every page's requests, so leave ``allowed_origins`` at its default or name
    only origins of your own.

    Args:
        recheck_interval: The seconds after which each client's user is loaded again by the app's ``user_loader``, 60 by
            default; None for never. A client whose user is gone or inactive is disconnected.

    Raises:
        OptionsError: ``recheck_interval`` is invalid, or the extra ``cartows[login]`` is missing.
    """

    def __init__(self, recheck_interval: float | None = 60.0) -> None:
        try:
            import flask_login  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            raise OptionsError("FlaskLoginAuth needs Flask-Login: pip install 'cartows[login]'") from None
        seconds = recheck_interval
        if seconds is not None and (
            isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf
        ):
            raise OptionsError(
                f"FlaskLoginAuth(recheck_interval={seconds!r}) cannot be used: it must be a number of seconds above 0, or None"
            )
        self.recheck_interval = None if recheck_interval is None else float(recheck_interval)
        self._flask_login: Any = flask_login
        # The receivers of Flask-Login's logout signal, one for each hub. The signal refers to them weakly, so that they go with
        # their hub.
        self._receivers: WeakKeyDictionary[Disconnector, Callable[..., None]] = WeakKeyDictionary()

    def authenticate(self, request: Any) -> Credentials:
        """Return the credentials of the user who is logged in.

        Runs on the request's thread and in its context.

        Args:
            request: The Flask request; the user is that of the current context.

        Raises:
            AuthError: No user is logged in, or the user is inactive.
            OptionsError: The app has no LoginManager.
        """
        manager = _manager(current_app)
        user = self._flask_login.current_user
        if not user.is_authenticated or not user.is_active:
            raise AuthError("No user is logged in: log in, then connect.")
        return Credentials(_id(manager, user))

    def is_valid(self, credentials: Credentials) -> bool:
        """Return whether the user exists and is active; True in an app without a ``user_loader``.

        Runs on the hub's rechecker thread in an app context.

        Args:
            credentials: The credentials of a connected client.

        Raises:
            OptionsError: The app has no LoginManager.
        """
        load = _manager(current_app).user_callback
        if load is None:
            return True
        user = load(credentials.identity)
        return user is not None and bool(user.is_active)

    def init_hub(self, hub: Disconnector) -> None:
        """Disconnect a user's clients of this hub at ``logout_user()``, for as long as the hub exists.

        Args:
            hub: The hub, which is referred to weakly.
        """
        # Connecting the same receiver again changes nothing.
        self._flask_login.user_logged_out.connect(self._receivers.setdefault(hub, _receiver(hub)))


def _receiver(hub: Disconnector) -> Callable[..., None]:
    reference = ref(hub)

    def logged_out(app: Any, user: Any = None, **_: Any) -> None:
        found = reference()
        # An anonymous user may log out too, and has no id.
        if found is None or user is None or not user.is_authenticated:
            return
        try:
            # Whichever app of the process it is: to disconnect a user of another app who has the same id costs a reconnect,
            # while to leave a client connected that has logged out would be a security hole.
            found.disconnect(identity=_id(_manager(app), user), code=CloseCode.EXPIRED, reason="logged out")
        except Exception:
            # The user is logged out all the same, so the request must not fail.
            logger.exception("cartows: could not disconnect the clients of a user who has logged out")

    return logged_out


def _manager(app: Any) -> Any:
    manager = getattr(app, "login_manager", None)
    if manager is None:
        raise OptionsError("FlaskLoginAuth finds no LoginManager in this app: LoginManager(app), or its init_app(app)")
    return manager


def _id(manager: Any, user: Any) -> Any:
    """Return the id that Flask-Login keeps in the session and passes to the user loader."""
    return getattr(user, manager.id_attribute)()
