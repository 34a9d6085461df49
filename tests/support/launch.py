"""Become the server: ``python launch.py NOFILE COMMAND...``.

It does what a shell does with ``ulimit -n``; makes Ctrl-C work although the tests may run in the background, where
shells have SIGINT ignored and Python leaves it so; and sees to it that the server ends when the tests are killed.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if limit := int(sys.argv[1]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(sys.argv[2], sys.argv[2:])
