"""Ready-made authenticators for ``ws.authenticate``: JSON Web Tokens, and the sessions of Flask-Login.

Threads: any.
Locks: see ``keys``.
Blocks: see each.

Each needs its extra, ``cartows[jwt]`` or ``cartows[login]``, and says so when it is made without it.
"""

from __future__ import annotations

from .base import Authenticator, Credentials
from .flask_login import FlaskLoginAuth
from .jwt import JWTAuth

__all__ = ["Authenticator", "Credentials", "FlaskLoginAuth", "JWTAuth"]
