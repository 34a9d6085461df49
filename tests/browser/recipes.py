"""The programs of a how-to page, written out, built and served as the page says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.browser.restarts import reserved_port
from tests.support.harness import HOST
from tests.support.waiting import DEADLINE, wait_until
from tests.test_readme import curl, curl_lines

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs" / "how-to"

# A first line that names the file: `# app.py`, `// src/main.js`, `<!-- page.html -->`, `{# page.html #}`.
FILE_NAME = re.compile(r"(?:#|//|<!--|\{#) ([\w./-]+\.\w+)(?: -->| #\})?\n")

# What npm reports when the page names a package or a version that does not exist, or packages that do not fit together.
WRONG_PACKAGES = ("E404", "ETARGET", "ERESOLVE")

# What the server holds, as its own hub sees it; each page calls the hub ``hub``.
ROOMS = """

@app.get("/_rooms")
def _rooms():
    clients = [client.filters.items() for client in hub.get_clients()]
    return [sorted(f"{key}={value}" for key, values in filters for value in values) for filters in clients]
"""


class Recipe:
    """A how-to page, and a folder for its programs."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder
        text = (HOW_TO / f"{name}.md").read_text(encoding="utf-8")
        self.blocks: list[tuple[str, str]] = re.findall(r"^```(\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for _, code in self.blocks:
            if named := FILE_NAME.match(code):
                self.write(named[1], code)

    def write(self, file: str, text: str) -> None:
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def block_with(self, needle: str) -> str:
        """Return the one code block that contains the words."""
        (found,) = [code for _, code in self.blocks if needle in code]
        return found

    def install(self, lines: str) -> None:
        """Run lines that install packages; skip the test where npm cannot get them."""
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        try:
            done = self.run(lines)
        except subprocess.TimeoutExpired:
            pytest.skip("npm did not install the packages in time")
        if done.returncode != 0 and not any(fault in done.stdout for fault in WRONG_PACKAGES):
            pytest.skip(f"npm could not install the packages: {done.stdout.strip()}")
        assert done.returncode == 0, done.stdout

    def build(self, lines: str) -> None:
        """Run lines that must succeed."""
        done = self.run(lines)
        assert done.returncode == 0, done.stdout

    def run(self, lines: str) -> subprocess.CompletedProcess[str]:
        """Run lines of the shell in the folder, as a reader does in an environment where cartows is installed."""
        return subprocess.run(
            ["bash", "-euc", lines],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=140,
        )

    @staticmethod
    def environment() -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FLASK_", "GUNICORN_", "WEB_"))},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "npm_config_audit": "false",
            "npm_config_fund": "false",
            "npm_config_fetch_retries": "1",
            "npm_config_update_notifier": "false",
        }

    def copy(self, folder: Path) -> Recipe:
        """Return this recipe in a folder of its own, with a link to the packages that are installed in this one."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("node_modules"))
        for installed in [*self.folder.glob("node_modules"), *self.folder.glob("*/node_modules")]:
            (folder / installed.relative_to(self.folder)).symlink_to(installed)
        found = Recipe.__new__(Recipe)
        found.folder, found.blocks = folder, self.blocks
        return found


class RecipeServer:
    """The Flask app of a recipe under gunicorn, on a port that it keeps over restarts."""

    def __init__(self, recipe: Recipe, rules: str = "") -> None:
        self._folder = recipe.folder
        self.port = reserved_port()
        app = recipe.block_with("# app.py")
        if rules:
            app = app.replace("CartoWS(app, hub)", "ws = CartoWS(app, hub)")
        recipe.write("app.py", app + ROOMS + rules)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", "8", "-b", f"{HOST}:{self.port}"]
        settings = ROOT / "tests" / "apps" / "gunicorn_settings.py"
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", str(settings), "app:app"],
                cwd=self._folder,
                env=Recipe.environment(),
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._answers, self.log)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log()
        try:
            self.rooms()
        except OSError:
            return False
        return True

    def log(self) -> str:
        return (self._folder / "server.log").read_text(encoding="utf-8")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(DEADLINE)
        finally:
            self.kill()  # does nothing to a process that has ended
        assert code == 0 and "Traceback" not in self.log(), self.log()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)

    def add(self, recipe: Recipe, board: str) -> None:
        """Add a task to a board with the line for curl of the page."""
        (line,) = curl_lines("".join(f"```sh\n{code}```\n" for _, code in recipe.blocks))
        curl([argument.replace("/garden/", f"/{board}/") for argument in line], f"{HOST}:{self.port}")

    def delete(self, path: str) -> None:
        request = urllib.request.Request(f"http://{HOST}:{self.port}{path}", method="DELETE")
        urllib.request.urlopen(request, timeout=DEADLINE).close()

    def rooms(self) -> list[list[str]]:
        """Return the rooms of each client that is connected."""
        with urllib.request.urlopen(f"http://{HOST}:{self.port}/_rooms", timeout=DEADLINE) as response:
            found: list[list[str]] = json.load(response)
        return found

    def await_rooms(self, *clients: list[str]) -> None:
        """Wait until these clients are connected, each named by its rooms."""
        wait_until(lambda: sorted(self.rooms()) == sorted(clients), lambda: f"{clients}, not {self.rooms()}")


@contextmanager
def running(server: RecipeServer) -> Iterator[RecipeServer]:
    """Give a server, and stop it in order."""
    try:
        yield server
        server.stop()
    finally:
        server.kill()


class ViteServer:
    """Vite's development server in a folder, with the proxies that its configuration names."""

    def __init__(self, folder: Path, flask: int) -> None:
        self.port = reserved_port()
        config = folder / "vite.config.js"
        config.write_text(config.read_text(encoding="utf-8").replace("127.0.0.1:8000", f"{HOST}:{flask}"), encoding="utf-8")
        # Not through npx, which would stay between this process and the server.
        command = [str(folder / "node_modules" / ".bin" / "vite"), "--host", HOST, "--port", str(self.port), "--strictPort"]
        with (folder / "vite.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=Recipe.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._log = folder / "vite.log"

    def __enter__(self) -> ViteServer:
        try:
            wait_until(self._answers, lambda: self._log.read_text(encoding="utf-8"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.wait(DEADLINE)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
        try:
            urllib.request.urlopen(f"http://{HOST}:{self.port}/", timeout=DEADLINE).close()
        except OSError:
            return False
        return True
