"""The gate: who may come in by a request, what it may hear, and whether there is a place for it.

Threads: the request's own.
Locks: none of its own.
Blocks: as long as the app's functions do.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, NamedTuple

from flask import current_app, request

from ..auth.base import Credentials
from ..client.authorization import ANONYMOUS
from ..client.client import Client
from ..errors import AuthError, CartowsError
from ..hooks import AppHooks
from ..hub.capacity import Slot, SlotLimits
from ..hub.hub import Hub
from ..options import Options
from ..rooms import Filters, room_value
from .checks import (
    NO_WEBSOCKET,
    Refusal,
    address_of,
    check_filters,
    check_handshake,
    check_origin,
    default_max_clients,
    hide_parameters,
    too_many,
    unavailable,
)

__all__ = ["EXTENSIONS", "Admission", "AdmissionPolicy"]

_CHALLENGE = (("WWW-Authenticate", "Bearer"),)

# What asks by HTTP why an upgrade is refused. No other site can have a browser send it, nor does whoever follows a link: the
# app is asked who it is for a request that wants to know, and for no other.
EXPLAIN = "X-Cartows-Explain"

# Where an app keeps its extensions, all of them.
EXTENSIONS = "cartows.extensions"


class Admission(NamedTuple):
    """Say how a client comes in."""

    filters: Filters
    #: The id behind which it asks for what it missed.
    since: str | None
    slot: Slot
    #: The last revocation that there was before the app was asked.
    asked_at: int
    #: The functions of the app, which have been asked who it is and what it may hear.
    hooks: AppHooks | None = None
    credentials: Credentials = ANONYMOUS


class AdmissionPolicy:
    """Decide, for one handler, about the request at hand; ``hooks`` of None stands for those of the app's own extension."""

    def __init__(self, hub: Hub, logger: logging.Logger, options: Options | None, hooks: AppHooks | None) -> None:
        self.hub = hub
        self._logger = logger
        self._options = options
        self._hooks = hooks

    @property
    def options(self) -> Options:
        """The settings in force: the handler's own, or else the hub's."""
        return self._options or self.hub.options

    def change_options(self, **changes: Any) -> None:
        """Have other settings from now on, for this handler alone."""
        self._options = dataclasses.replace(self.options, **changes)

    @property
    def max_clients(self) -> int:
        """How many clients this process serves."""
        return self.options.max_clients or default_max_clients()

    def hooks(self) -> AppHooks | None:
        """Return the app's functions that count here; an extension's count in a route of the app's own, if it has the same hub.

        Raises CartowsError where that is true of several.
        """
        if self._hooks is not None:
            return self._hooks
        ours = [each for each in current_app.extensions.get(EXTENSIONS, ()) if each.hub is self.hub]
        if len(ours) > 1:
            raise CartowsError(
                f"The app {current_app.name!r} has {len(ours)} extensions with this hub, so a Handler(hub) cannot tell whose "
                "authenticate and authorize count: use the handler of one of them, ws.handler.handle_websocket(...)"
            )
        if not ours:
            return None
        hooks: AppHooks = ours[0].hooks_of(current_app._get_current_object())  # type: ignore[attr-defined]
        return hooks

    def check(self) -> Refusal | None:
        """Return why a request cannot open a connection of the extension's, before the app is asked anything."""
        self._keep_secrets()
        wrong = check_handshake(request)
        if wrong is not None and not (wrong.code == NO_WEBSOCKET and EXPLAIN in request.headers):
            return wrong
        # Whoever finds the house full costs the app no question; the place itself is taken last.
        return check_origin(request, self.options) or self._check_slot(Slot(address_of(request)))

    def check_question(self, slot: Slot) -> Refusal | None:
        """Return the answer to a request that opens no connection, though it could: None to one that does.

        A page is not told why its WebSocket was refused. So it asks for the same URL by HTTP, and is told what it would be.
        """
        # Without the header `check` has refused what is no handshake: one that is one is not looked at again.
        wrong = check_handshake(request) if EXPLAIN in request.headers else None
        if wrong is None:
            return None
        if self.hub.closed:
            return unavailable("SHUTTING_DOWN", "The server is restarting; connect again.")
        return self._check_slot(slot) or wrong

    def check_route(self) -> Refusal | None:
        """Return why a request may not be served in a route of the app's own, where the handshake is over."""
        self._keep_secrets()
        return check_origin(request, self.options)

    def _keep_secrets(self) -> None:
        hooks = self.hooks()
        if hooks is not None and hooks.authenticator is not None:
            hide_parameters(request, hooks.authenticator.secret_parameters)

    def admit(self) -> Admission | Refusal:
        """Return who the client is and what it hears, by the query and what the app says to that, or why it may not come in."""
        filters = check_filters(request, self.options)
        if isinstance(filters, Refusal):
            return filters
        since = request.args.get("since") if self.options.greeting else None
        asked_at = self.hub.revocation_mark()
        hooks = self.hooks()
        address = address_of(request)
        if hooks is None:
            return Admission(filters, since, Slot(address), asked_at)
        try:
            credentials = hooks.identify(request)
        except AuthError as error:
            return Refusal(401, "UNAUTHORIZED", str(error), _CHALLENGE)
        refused = hooks.refused(credentials, filters)
        if refused is None:
            identity = None if credentials.identity is None else room_value(credentials.identity)
            return Admission(filters, since, Slot(address, identity), asked_at, hooks, credentials)
        what = "everything: name rooms in the query" if refused[0] is None else f"{refused[0]}={str(refused[1])[:100]}"
        return Refusal(403, "FORBIDDEN", f"You may not hear {what}.")

    def recheck(self, client: Client, admission: Admission) -> Refusal | None:
        """Return why a client may not come in after all: what the app has said of it may be out of date.

        From here on it is found by whoever puts it out or asks for it again.
        """
        asked_at, identity = admission.asked_at, admission.slot.identity
        while True:
            disconnected, doubtful = self.hub.revocations_since(asked_at, identity)
            if disconnected:
                return Refusal(401, "UNAUTHORIZED", "You were put out while you came in.", _CHALLENGE)
            if not doubtful:
                return None
            try:
                again = self.admit()
            except Exception:
                self._logger.exception("cartows: the app failed to say again who may connect; the client is refused")
                return Refusal(500, "INTERNAL", "The server failed to check who you are.")
            if isinstance(again, Refusal):
                return again
            if again.slot.identity != identity:
                return Refusal(401, "UNAUTHORIZED", "Who you are has changed while you came in: connect again.", _CHALLENGE)
            client.authorization.credentials, asked_at = again.credentials, again.asked_at

    def take_slot(self, slot: Slot) -> Refusal | None:
        """Take a place in the process; returns why there is none."""
        bounds = self._bounds()
        return self._full(self.hub.take_slot(slot, bounds), bounds)

    def _check_slot(self, slot: Slot) -> Refusal | None:
        bounds = self._bounds()
        return self._full(self.hub.check_slot(slot, bounds), bounds)

    def _bounds(self) -> SlotLimits:
        options = self.options
        return SlotLimits(self.max_clients, options.max_clients_per_ip, options.max_clients_per_user)

    def _full(self, full: str | None, bounds: SlotLimits) -> Refusal | None:
        if full is None:
            return None
        if full == "clients":
            return unavailable("FULL", f"This process serves {bounds.clients} clients and has no place left; try again.")
        if full == "address":
            return too_many("TOO_MANY_FROM_IP", f"{bounds.per_address} clients from your address are connected already.")
        return too_many("TOO_MANY_OF_USER", f"You are connected {bounds.per_identity} times already.")
