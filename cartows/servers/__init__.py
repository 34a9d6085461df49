"""What differs from web server to web server. Called on the thread of a request, or on the one that makes the app."""

from __future__ import annotations

from .base import configured_workers, gunicorn_worker, replaced_threads, serving

__all__ = ["configured_workers", "gunicorn_worker", "replaced_threads", "serving"]
