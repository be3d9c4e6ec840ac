"""A real browser, and real clusters for it to look at."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.acceptance.processes import Start, starting
from tests.packages import installed

__all__ = ["PATIENCE", "Site", "waiting_for"]

PATIENCE = 30.0

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

SHOP = """
import asyncio

from mesh import Context, Mesh, Retry

app = Mesh({url!r}, heartbeat=0.5)

@app.job
async def add(x: int, y: int = 1) -> int:
    return x + y

@app.job(lane="reports")
async def export(ctx: Context, rows: int = 20, pause: float = 0.1) -> dict[str, int]:
    for row in range(rows):
        await ctx.progress(row + 1, rows, "rows")
        if row % 10 == 0:
            await ctx.log.info("wrote a page", page=row // 10)
        await ctx.chunk(f"row {{row}}\\n")
        await asyncio.sleep(pause)
    return {{"rows": rows}}

@app.job(lane="mail", retry=Retry(1))
async def send_mail(user: int) -> None:
    if user % 2:
        raise ConnectionError(f"smtp-{{user}}.example refused: 421 try again")
    raise ValueError(f"user {{user}} has no address")

app.schedule(add, "0 2 * * *", 1, name="nightly")
app.schedule(
    add, "every 30 minutes between 09:00 and 18:00 on [mon, fri]", 1,
    name="office", timezone="Europe/Amsterdam",
)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = installed("chromium", ["chromium", "chromium-browser", "google-chrome"])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_FLAGS)
        yield browser
        browser.close()


@dataclass(frozen=True)
class Site:
    """A cluster of processes, and where its dashboard is."""

    folder: Path
    start: Start
    port: int
    servers: list[subprocess.Popen[str]] = field(default_factory=list)
    """Those that were started."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> str:
        return f"sqlite:///{self.folder / 'mesh.db'}"

    def serve(self) -> subprocess.Popen[str]:
        """Start a coordinator with the dashboard, and wait until that answers."""
        process = self.start("master", "shop_seen:app", "--http", f"127.0.0.1:{self.port}")

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{self.url}/health/ready", timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        waiting_for(answers)
        self.servers.append(process)
        return process


def waiting_for(what: Callable[[], bool]) -> None:
    """Return once it is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with starting(folder) as start:
        site = Site(folder, start, port)
        (folder / "shop_seen.py").write_text(SHOP.format(url=site.database), "utf-8")
        yield site
