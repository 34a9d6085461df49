"""Flask-Login's sessions as credentials: who is logged in may connect, and who logs out is put out.

Threads: ``authenticate`` on the request's; ``is_valid`` on a thread of the hub's; logouts on the thread of the request that
    logs out.
Locks: none.
Blocks: as long as the app's user loader does.
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
    """Let in who is logged in: ``ws.authenticate(FlaskLoginAuth())``; the identity is the user's id.

    Each user is looked up again every ``recheck_interval`` seconds (60; None for never), by the app's ``user_loader``; a user
    who is gone or inactive is disconnected. ``logout_user()`` disconnects every socket of the user in this process; another
    browser in which that user is still logged in reconnects by itself.

    A browser sends cookies along for any page, so leave ``allowed_origins`` at its default or name the origins of your own.
    Raises OptionsError for what cannot work, and without the extra ``cartows[login]``.
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
        # What is called at a logout, one for each hub. Flask-Login's signal holds it weakly: it goes with its hub.
        self._receivers: WeakKeyDictionary[Disconnector, Callable[..., None]] = WeakKeyDictionary()

    def authenticate(self, request: Any) -> Credentials:
        """Return who is logged in. Raises AuthError, and OptionsError when the app has no LoginManager."""
        manager = _manager(current_app)
        user = self._flask_login.current_user
        if not user.is_authenticated or not user.is_active:
            raise AuthError("Nobody is logged in: log in, then connect.")
        return Credentials(_id(manager, user))

    def is_valid(self, credentials: Credentials) -> bool:
        """Return whether the user is there and active; True in an app without a ``user_loader``, which cannot tell."""
        load = _manager(current_app).user_callback
        if load is None:
            return True
        user = load(credentials.identity)
        return user is not None and bool(user.is_active)

    def init_hub(self, hub: Disconnector) -> None:
        """Have ``logout_user()`` put the user's sockets out of a hub, for as long as there is that hub."""
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
            # From whichever app of the process: to put out somebody of another app who has the same id costs them a
            # reconnect, and to keep somebody in would cost more.
            found.disconnect(identity=_id(_manager(app), user), code=CloseCode.EXPIRED, reason="logged out")
        except Exception:
            # The user is logged out all the same: it is no reason to answer with a 500.
            logger.exception("cartows: could not put out the sockets of a user who has logged out")

    return logged_out


def _manager(app: Any) -> Any:
    manager = getattr(app, "login_manager", None)
    if manager is None:
        raise OptionsError("FlaskLoginAuth finds no LoginManager in this app: LoginManager(app), or its init_app(app)")
    return manager


def _id(manager: Any, user: Any) -> Any:
    """Return what Flask-Login keeps in the session, and what the user loader is given."""
    return getattr(user, manager.id_attribute)()
