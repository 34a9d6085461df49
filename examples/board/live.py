"""The real-time part: the hub, the WebSocket route with its authentication, and events that wait for a commit."""

import secrets

from flask import session
from models import db

from cartows import CartoWS, Hub
from cartows.sqlalchemy import publish_on_commit

hub = Hub()
ws = CartoWS(hub=hub)

# Has the hub's broadcast_* methods. Their events are published once db.session has committed, and never after a rollback.
events = publish_on_commit(db.session, hub)


@ws.authenticate
def identify(request):
    """Return the identity of this browser, the same for all of its tabs; without a cookie a new one."""
    return session.get("me") or "guest-" + secrets.token_hex(4)
