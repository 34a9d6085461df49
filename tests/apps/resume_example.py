"""The resume example, with the tests' remote control."""

from __future__ import annotations

import sys
from pathlib import Path

import remote

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "resume"))

from app import app, hub

remote.install(app, hub)
