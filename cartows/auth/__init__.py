"""Ready-made authenticators for ``ws.authenticate``: JSON Web Tokens, and the sessions of Flask-Login.

Each needs its extra, ``cartows[jwt]`` or ``cartows[login]``, and raises OptionsError when it is made without it. Called on the
threads of requests, on the clients' reader threads and on the rechecker's.
"""

from __future__ import annotations

from .base import Authenticator, Credentials
from .flask_login import FlaskLoginAuth
from .jwt import JWTAuth

__all__ = ["Authenticator", "Credentials", "FlaskLoginAuth", "JWTAuth"]
