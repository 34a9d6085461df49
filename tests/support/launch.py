"""Replace this process by a server: ``python launch.py NOFILE ADDRESS_SPACE COMMAND...``.

Before that set the file limit and the limit of the address space, as ``ulimit -n`` and ``-v`` do; make Ctrl-C work although the
tests may run in the background, where shells ignore SIGINT and Python inherits that; and make the kernel end the server when
the tests are killed.
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
    if limit := int(sys.argv[2]):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execv(sys.argv[3], sys.argv[3:])
