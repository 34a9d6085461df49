"""What makes it live: the hub, the route of the WebSockets and who is behind each, and the events that wait for a commit."""

import secrets

from flask import session
from models import db

from cartows import CartoWS, Hub
from cartows.sqlalchemy import publish_on_commit

hub = Hub()
ws = CartoWS(hub=hub)

# Has the hub's broadcast_* methods. What is given to them is sent once db.session has committed, and never after a rollback.
events = publish_on_commit(db.session, hub)


@ws.authenticate
def who(request):
    """Return by what name presence knows this browser: the same for all its tabs. Without a cookie it is a new one."""
    return session.get("me") or "guest-" + secrets.token_hex(4)
