"""``mesh demo`` in a terminal leaves the dashboard open until Ctrl-C; else, or once, it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
import urllib.request
from pathlib import Path

from .processes import MESH

PATIENCE = 60.0


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *command: str, folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            start_new_session=True,
            preexec_fn=lambda: _control(theirs),
            env=os.environ | {"COLUMNS": "200", "TERM": "dumb"},
        )
        os.close(theirs)
        self.said = ""

    def read_until(self, text: str) -> str:
        """All that it has said, once it has said that."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.said:
            assert time.monotonic() < deadline, self.said[-2000:]
            if select.select([self._ours], [], [], 0.5)[0]:
                try:
                    self.said += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # it has ended
                    assert text in self.said, self.said[-2000:]
        return self.said

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


def _control(terminal: int) -> None:
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_the_dashboard_stays_open_until_ctrl_c(tmp_path: Path) -> None:
    terminal = Terminal(MESH, "demo", "--files", "20", folder=tmp_path)
    try:
        said = terminal.read_until("Ctrl-C ends it")
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found is not None
        url = found[0]
        with urllib.request.urlopen(f"{url}/", timeout=PATIENCE) as page:
            assert b"assets/app.js" in page.read()
        deadline = time.monotonic() + PATIENCE
        while not _jobs(url, "send_mail"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        terminal.press(b"\x03")
        terminal.read_until("mesh jobs ls --master")
        assert terminal.process.wait(PATIENCE) == 0
    finally:
        terminal.close()


def _jobs(url: str, name: str) -> list[object]:
    with urllib.request.urlopen(f"{url}/api/v1/jobs?name={name}", timeout=PATIENCE) as answer:
        found: list[object] = json.load(answer)["jobs"]
        return found


def test_it_ends_where_nobody_looks(tmp_path: Path) -> None:
    done = subprocess.run(
        [MESH, "demo", "--files", "20"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "The dashboard is open at" in done.stdout
    assert "stays open" not in done.stdout
