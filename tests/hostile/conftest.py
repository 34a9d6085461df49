"""Fixtures of the hostile-client suite: the servers of the integration tests."""

from tests.integration.conftest import fleet, serve, tls

__all__ = ["fleet", "serve", "tls"]
