"""Fixtures of the hostile-client suite: the servers of the acceptance tests."""

from tests.integration.conftest import fleet, serve, tls

__all__ = ["fleet", "serve", "tls"]
