"""Whether a broadcast in this process can reach a client, and the warning that it cannot.

**Threads**: any.
**Blocks**: never.
"""

from __future__ import annotations

import logging
import os

from ..servers.detection import serving

__all__ = ["Reach"]


class Reach:
    """What is known of the clients of one hub in one process, which ``serves`` as a web server's own."""

    def __init__(self, logger: logging.Logger, serves: bool) -> None:
        self._logger = logger
        self._serves = serves
        #: A client has registered, or the warning has been logged.
        self.settled = False

    def warn(self, has_broker: bool) -> None:
        """Log that a broadcast reaches no client, unless there is a broker, or this process may have clients later."""
        self.settled = True
        if not has_broker and not self._serves and not serving():
            self._logger.warning(
                "cartows: a broadcast in process %d reaches no client: the process serves no WebSocket clients (a Celery task, "
                "a cron job, a shell, a child process, gunicorn's master with --preload?). Set CARTOWS_REDIS_URL and use a "
                "Publisher, or broadcast in a request handler that this process calls by HTTP",
                os.getpid(),
            )
