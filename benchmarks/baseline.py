"""The environment of the benchmark's own in which Flask-SocketIO runs, beside the one that has cartows.

Threads: the caller's alone.
Locks: none.
Blocks: for a minute or so when the environment is made; it stays in ``build/`` until its list of packages changes.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from pathlib import Path

from .processes import BUILD

# flask-sock is what apps.py imports for the other baseline, packaging what gunicorn does with gevent.
PACKAGES = ("flask-socketio>=5.5", "flask-sock", "gevent", "gunicorn", "packaging", "redis>=5", "simple-websocket")
TOLD = ("Flask-SocketIO", "python-socketio", "gevent", "redis")

INSTALL_WAIT = 300.0


class NoBaseline(Exception):
    """The environment could not be made; the message says why."""


@functools.cache
def socketio_python() -> Path:
    """Return the Python that has Flask-SocketIO; makes its environment where there is none. Raises NoBaseline."""
    digest = hashlib.sha256(" ".join((sys.version, *PACKAGES)).encode()).hexdigest()
    folder = BUILD / f"socketio-{digest[:12]}"
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        try:
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            _run([str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *PACKAGES])
        except subprocess.CalledProcessError as error:
            raise NoBaseline(f"{error.cmd[2]} said: {error.stdout.decode(errors='replace').strip()[-300:]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoBaseline(str(error)) from error
        done.touch()
    return python


@functools.cache
def versions() -> str:
    """Return what is installed there, for the report."""
    code = "import importlib.metadata as m, sys; print(', '.join(f'{name} {m.version(name)}' for name in sys.argv[1:]))"
    run = subprocess.run([str(socketio_python()), "-c", code, *TOLD], stdout=subprocess.PIPE, check=True, text=True)
    return run.stdout.strip()


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=INSTALL_WAIT, check=True)
