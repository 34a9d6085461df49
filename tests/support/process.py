"""What the kernel knows of another process: its threads, descriptors, children and memory (Linux)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HAS_PROC = sys.platform == "linux" and Path("/proc/self/fd").is_dir()


def _ids(directory: str) -> set[str]:
    try:
        return set(os.listdir(directory))
    except OSError:
        return set()


def threads(pid: int) -> int:
    """Return how many threads a process has; 0 when it is gone."""
    return len(_ids(f"/proc/{pid}/task"))


def fds(pid: int) -> dict[str, str]:
    """Return a process's descriptors and what each is open on."""
    found = {}
    for number in _ids(f"/proc/{pid}/fd"):
        try:
            found[number] = os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:  # closed meanwhile
            continue
    return found


def children(pid: int) -> list[int]:
    """Return a process's children, lowest id first."""
    found = []
    for entry in _ids("/proc"):
        if not entry.isdigit():
            continue
        try:
            # The name, in brackets, may hold anything; the parent is the second field after it.
            parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue
        if int(parent) == pid:
            found.append(int(entry))
    return sorted(found)


def peak_memory(pid: int) -> int:
    """Return the most memory a process has held, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel does not report the peak memory of {pid}")


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
