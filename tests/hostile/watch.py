"""What an attack costs the worker, observed from outside: memory, here and in the kernel, and processor time (Linux)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from tests.support import process
from tests.support.harness import Server

# How much more memory a worker may hold than before, once all clients have left, and at its peak; bytes.
GROWTH, PEAK_GROWTH = 24 << 20, 64 << 20

# How much may wait in the kernel for all clients together, in bytes: sixty of them read nothing in some attacks.
QUEUED = 16 << 20

# How much processor time a connection of an attacker may cost, whatever it sends in its round; seconds. An honest message costs
# a thousandth of a second at most; half a megabyte of JSON, decoded, a hundredth.
CPU_PER_ROUND = 1.0

# The time between two looks at the kernel's queues, in seconds.
_EVERY = 0.05


class Watch:
    """The costs of one attack, from the beginning of the context to its end; ``problems`` once the server is idle."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stopping = threading.Event()
        #: The most that waited in the kernel at once, in bytes.
        self.queued = 0
        #: Processor time of the worker during the attack, in seconds.
        self.cpu = 0.0

    def __enter__(self) -> Watch:
        self._server.get("/remote/process")  # which runs the garbage collector
        self._before, self._peak_before = self._memory("VmRSS:"), self._memory("VmHWM:")
        self._cpu_before = self._cpu()
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._thread.join()
        self.cpu = self._cpu() - self._cpu_before

    def _run(self) -> None:
        while process.HAS_PROC and not self._stopping.wait(_EVERY):
            self.queued = max(self.queued, queued_in_kernel(self._server.port))

    def _memory(self, key: str) -> int:
        if not process.HAS_PROC:
            return 0
        lines = Path(f"/proc/{self._server.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    def _cpu(self) -> float:
        if not process.HAS_PROC:
            return 0.0
        fields = Path(f"/proc/{self._server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak(self) -> int:
        """How much the worker's memory has grown at its peak, in bytes."""
        return max(0, self._memory("VmHWM:") - self._peak_before)

    def problems(self, rounds: int | None = None) -> list[str]:
        """Return which bounds are exceeded; ``rounds`` is how many connections have cost that time, None for any number."""
        self._server.get("/remote/process")
        growth, found = self._memory("VmRSS:") - self._before, []
        if growth > GROWTH:
            found.append(f"the worker holds {growth >> 20} MiB more than before")
        if self.peak > PEAK_GROWTH:
            found.append(f"the worker's memory grew by {self.peak >> 20} MiB at its peak")
        if self.queued > QUEUED:
            found.append(f"{self.queued >> 20} MiB waited in the kernel")
        if rounds and self.cpu / rounds > CPU_PER_ROUND:
            found.append(f"a round cost the worker {self.cpu / rounds:.1f} s of processor time")
        return found


def queued_in_kernel(port: int) -> int:
    """Return how many bytes wait in the send queues of the sockets of a local port."""
    total = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                total += int(fields[4].partition(":")[0], 16)
    return total
