"""Who may connect by a request, which rooms it may subscribe to, and whether there is a free slot for it.

**Threads**: the request's own.
**Blocks**: as long as the app's functions do.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any, NamedTuple

from flask import Response, current_app, request

from ..auth.base import Credentials
from ..client.client import Client
from ..errors import AuthError, CartowsError, printable
from ..hooks import AppHooks, RefusedByApp
from ..hub.capacity import Slot, SlotLimits
from ..hub.hub import Hub
from ..identity import identity_string
from ..limits import Limits, find_limits
from ..options import Options
from ..rooms import Filters
from ..servers.detection import configured_threads, configured_workers
from .checks import (
    NO_WEBSOCKET,
    Refusal,
    address_of,
    check_filters,
    check_handshake,
    check_origin,
    hide_parameters,
    too_many,
    unavailable,
)

__all__ = ["EXTENSIONS", "Admission", "AdmissionPolicy"]

_CHALLENGE = (("WWW-Authenticate", "Bearer"),)

# The header of a request that asks by HTTP why an upgrade is refused. Neither a link nor a page of another site can make a
# browser send it, so that neither can make the app be asked about a user.
_EXPLAIN = "X-Cartows-Explain"

# The key of ``app.extensions`` below which all extensions of an app stand.
EXTENSIONS = "cartows.extensions"


class Admission(NamedTuple):
    """What a client was admitted with."""

    filters: Filters
    #: The id after which the client asks for what it missed.
    since: str | None
    slot: Slot
    #: The last revocation before the app was asked.
    asked_at: int
    #: The app's functions, which were asked who the client is and what it may subscribe to.
    hooks: AppHooks | None = None
    credentials: Credentials = Credentials(None)


class AdmissionPolicy:
    """Decide, for one handler, about the request at hand; ``hooks`` of None stands for those of the app's own extension."""

    def __init__(self, hub: Hub, logger: logging.Logger, options: Options | None, hooks: AppHooks | None) -> None:
        self._hub = hub
        self._logger = logger
        self._options = options
        self._hooks = hooks
        #: The process and its limits, once it has had a request.
        self._found: tuple[int, Limits] | None = None
        self._full_logged = False

    @property
    def options(self) -> Options:
        """The settings in force: the handler's own, or else the hub's."""
        return self._options or self._hub.options

    def change_options(self, **changes: Any) -> None:
        """Change settings from now on, for this handler alone."""
        self._options = dataclasses.replace(self.options, **changes)

    @property
    def max_clients(self) -> int:
        """The number of clients that this process serves at most."""
        return self.options.max_clients or self.limits().clients

    def find_limits(self) -> Limits:
        """Return what the system grants this process now."""
        write_buffer = self.options.write_buffer or 0
        return find_limits(workers=configured_workers(), pool=configured_threads(), write_buffer=write_buffer)

    def limits(self) -> Limits:
        """Return what the system granted this process at its first request, when the app had been loaded."""
        if self._found is None or self._found[0] != os.getpid():
            self._found = (os.getpid(), self.find_limits())
        return self._found[1]

    def _app_hooks(self) -> AppHooks | None:
        """Return the app's functions; in a route of the app's own, those of the extension with the same hub.

        Raises CartowsError where there are several.
        """
        if self._hooks is not None:
            return self._hooks
        ours = [each for each in current_app.extensions.get(EXTENSIONS, ()) if each.hub is self._hub]
        if len(ours) > 1:
            raise CartowsError(
                f"The app {current_app.name!r} has {len(ours)} extensions with this hub, so a Handler(hub) cannot decide whose "
                "authenticate and authorize count: use the handler of one of them, ws.handler.handle_websocket(...)"
            )
        if not ours:
            return None
        hooks: AppHooks = ours[0].hooks_of(current_app._get_current_object())  # type: ignore[attr-defined]
        return hooks

    def check(self) -> Refusal | None:
        """Return why a request cannot open a connection on the extension's route, before the app is asked anything."""
        self._hide_secrets()
        wrong = check_handshake(request)
        if wrong is not None and not (wrong.code == NO_WEBSOCKET and _EXPLAIN in request.headers):
            return wrong
        # Where no slot is free the app is not asked; the slot itself is taken last.
        return check_origin(request, self.options) or self._check_slot(Slot(address_of(request)))

    def explain(self, slot: Slot) -> Refusal | None:
        """Return the answer to a request that only asks why it would be refused; None to one that opens a connection.

        A browser does not tell a page why its WebSocket was refused, so the page asks for the same URL by HTTP.
        """
        # Without the header ``check`` has refused what is no handshake, so the handshake is not checked twice.
        wrong = check_handshake(request) if _EXPLAIN in request.headers else None
        if wrong is None:
            return None
        if self._hub.closed:
            return unavailable("SHUTTING_DOWN", "The server is restarting; connect again.")
        return self._check_slot(slot) or wrong

    def check_route(self) -> Refusal | None:
        """Return why a request may not be served in a route of the app's own, where the handshake is over."""
        self._hide_secrets()
        return check_origin(request, self.options)

    def _hide_secrets(self) -> None:
        hooks = self._app_hooks()
        if hooks is not None and hooks.authenticator is not None:
            hide_parameters(request, hooks.authenticator.secret_parameters)

    def admit(self) -> Admission | Refusal:
        """Return who the client is and what it subscribes to, by the query and the app's answers, or why it is refused."""
        filters = check_filters(request, self.options)
        if isinstance(filters, Refusal):
            return filters
        since = request.args.get("since") if self.options.greeting else None
        asked_at = self._hub.revocation_mark()
        hooks = self._app_hooks()
        address = address_of(request)
        if hooks is None:
            return Admission(filters, since, Slot(address), asked_at)
        try:
            credentials = hooks.authenticate(request)
        except AuthError as error:
            return Refusal(401, "UNAUTHORIZED", str(error), _CHALLENGE)
        except RefusedByApp as refused_by_app:
            return _by_app(current_app.make_response(refused_by_app.answer))
        refused = hooks.first_refused(credentials, filters)
        if refused is None:
            identity = None if credentials.identity is None else identity_string(credentials.identity)
            return Admission(filters, since, Slot(address, identity), asked_at, hooks, credentials)
        what = "everything: name rooms in the query" if refused[0] is None else f"{refused[0]}={str(refused[1])[:100]}"
        return Refusal(403, "FORBIDDEN", f"You may not subscribe to {what}.")

    def answer_to(self, error: Exception) -> Refusal:
        """Return the app's own answer to an exception of its functions, such as ``abort(401)``; a failure is logged.

        For where Flask would not ask the app for it. Call it while the exception is handled.
        """
        try:
            refusal = _by_app(current_app.make_response(current_app.handle_user_exception(error)))
        except Exception:
            refusal = Refusal(500, "INTERNAL", "The server failed to check who you are.")
        if refusal.status >= 500:
            path = printable(request.path)
            self._logger.exception("cartows: the app failed to decide who may connect to %s; the client is refused", path)
        return refusal

    def recheck(self, client: Client, admission: Admission) -> Refusal | None:
        """Return why a client is refused after all: the app may have revoked its answer while the client was made.

        From here on the client is in the registry, where ``disconnect`` and ``reauthorize`` find it.
        """
        asked_at, identity = admission.asked_at, admission.slot.identity
        while True:
            disconnected, doubtful = self._hub.revocations_since(asked_at, identity)
            if disconnected:
                return Refusal(401, "UNAUTHORIZED", "You were disconnected while you were connecting.", _CHALLENGE)
            if not doubtful:
                return None
            try:
                again = self.admit()
            except Exception as error:
                again = self.answer_to(error)
            if isinstance(again, Refusal):
                return again
            if again.slot.identity != identity:
                return Refusal(
                    401, "UNAUTHORIZED", "Your identity changed while you were connecting: connect again.", _CHALLENGE
                )
            client.authorization.credentials, asked_at = again.credentials, again.asked_at

    def take_slot(self, slot: Slot) -> Refusal | None:
        """Take a slot in this process, or return why there is none."""
        limits = self._limits()
        return self._full(self._hub.take_slot(slot, limits), limits)

    def _check_slot(self, slot: Slot) -> Refusal | None:
        limits = self._limits()
        return self._full(self._hub.check_slot(slot, limits), limits)

    def _limits(self) -> SlotLimits:
        options = self.options
        # Who sets the number of clients answers for their threads.
        threads = None if options.max_clients is not None else self.limits().threads
        return SlotLimits(self.max_clients, options.max_clients_per_ip, options.max_clients_per_user, threads)

    def _full(self, full: str | None, limits: SlotLimits) -> Refusal | None:
        if full is None:
            return None
        if full == "clients":
            if self.options.max_clients is None and not self._full_logged:
                self._full_logged = True
                self._logger.warning(
                    "cartows: %d clients are connected, as many as this process is allowed, and others are refused with 503. "
                    "Raise the first of these limits: %s",
                    limits.clients,
                    self.limits(),
                )
            return unavailable("FULL", f"This process serves {limits.clients} clients and has no slot left; try again.")
        if full == "address":
            return too_many("TOO_MANY_FROM_IP", f"{limits.per_address} clients from your address are connected already.")
        return too_many("TOO_MANY_OF_USER", f"You are connected {limits.per_identity} times already.")


def _by_app(response: Response) -> Refusal:
    return Refusal(response.status_code, "REFUSED_BY_APP", "The app refuses the connection.", response=response)
