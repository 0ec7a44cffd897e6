"""A real visdom server for the tests: a separate process on a free port of loopback, always ended."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 90.0  # seconds that a busy machine may take for anything


def free_port() -> int:
    """Return a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what: str) -> None:
    """Wait for a condition; the test fails if it does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:g} s"
        time.sleep(0.02)


class VisdomServer:
    """A visdom server that can be killed and started again.

    Args:
        keep: its folder.
    """

    def __init__(self, keep: Path):
        self.keep, self.port, self.process = keep, free_port(), None
        self.log = keep.with_name(f"{keep.name}.log")
        self.url = f"http://127.0.0.1:{self.port}"
        self.session = requests.Session()
        self.session.trust_env = False

    def start(self) -> None:
        """Start it and wait until it answers."""
        call = "from pathlib import Path; from reporting.live.server import serve; "
        call += f"serve({self.port}, Path({str(self.keep)!r}))"
        with self.log.open("wb") as log:  # a pipe that nobody reads would stop the server when it is full
            self.process = subprocess.Popen([sys.executable, "-c", call], cwd=ROOT, stderr=log)
        wait_until(self.answers, "the server starts")

    def answers(self) -> bool:
        """Tell whether it answers."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.session.post(f"{self.url}/env_state", data="{}", timeout=5).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def environments(self) -> list[str]:
        """Return the names of its environments."""
        return self.session.post(f"{self.url}/env_state", data="{}", timeout=PATIENCE).json()

    def windows(self, environment: str) -> dict[str, dict]:
        """Return the windows of an environment, by title."""
        data = json.dumps({"eid": environment, "win": None})
        windows = self.session.post(f"{self.url}/win_data", data=data, timeout=PATIENCE).json()
        return {window["title"]: window for window in windows.values()}
