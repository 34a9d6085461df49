"""The separate environment in which Flask-SocketIO runs.

Blocks: for a minute or so when the environment is made; it stays in ``build/`` until its list of packages changes.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from pathlib import Path

from .processes import BUILD

# apps.py imports flask-sock for the other baseline, and gunicorn imports packaging with gevent.
PACKAGES = ("flask-socketio>=5.5", "flask-sock", "gevent", "gunicorn", "packaging", "redis>=5", "simple-websocket")
REPORTED = ("Flask-SocketIO", "python-socketio", "gevent", "redis")

INSTALL_WAIT = 300.0


class NoBaseline(Exception):
    """The environment could not be made; the message has the reason."""


@functools.cache
def socketio_python() -> Path:
    """Return the Python that has Flask-SocketIO, and make its environment if needed. Raises NoBaseline."""
    digest = hashlib.sha256(" ".join((sys.version, *PACKAGES)).encode()).hexdigest()
    folder = BUILD / f"socketio-{digest[:12]}"
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        try:
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            _run([str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *PACKAGES])
        except subprocess.CalledProcessError as error:
            raise NoBaseline(f"{error.cmd[2]} printed: {error.stdout.decode(errors='replace').strip()[-300:]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoBaseline(str(error)) from error
        done.touch()
    return python


@functools.cache
def versions() -> str:
    """Return the installed versions, for the report."""
    code = "import importlib.metadata as m, sys; print(', '.join(f'{name} {m.version(name)}' for name in sys.argv[1:]))"
    run = subprocess.run([str(socketio_python()), "-c", code, *REPORTED], stdout=subprocess.PIPE, check=True, text=True)
    return run.stdout.strip()


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=INSTALL_WAIT, check=True)
