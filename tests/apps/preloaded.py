"""A module that publishes when it is imported: with ``--preload`` in the master, before the fork."""

from __future__ import annotations

import remote
from flask import Flask

from cartows import CartoWS, Hub

app = Flask(__name__)
hub = Hub()
remote.install(app, hub)
CartoWS(app, hub)
assert hub.broadcast("from.master").accepted
