"""The examples do what they say, embedded in one SQLite file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

from .processes import MESH

ACCEPTED = Path(__file__).parent.parent.parent / "examples/fastapi_202"
SHOP = Path(__file__).parent.parent.parent / "examples/shop"


def test_the_shop_and_its_producer(tmp_path: Path) -> None:
    environment = os.environ | {"MESH_URL": f"sqlite:///{tmp_path}/shop.db"}
    up = subprocess.Popen([MESH, "up", "shop:app"], cwd=SHOP, env=environment)
    try:
        done = subprocess.run(
            [sys.executable, "producer.py", "--count", "40", "--rate", "40"],
            cwd=SHOP,
            env=environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        listed = subprocess.run(
            [MESH, "jobs", "ls", "--state", "succeeded", "--limit", "100"],
            cwd=SHOP,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(listed.stdout.strip().splitlines()) == 41  # a heading, and the jobs
    finally:
        up.terminate()
        assert up.wait(30) == 0


def test_a_web_service_answers_at_once_and_lets_a_browser_follow(tmp_path: Path) -> None:
    environment = os.environ | {"MESH_URL": f"sqlite:///{tmp_path}/shop.db"}
    up = subprocess.Popen([MESH, "up", "shop:app"], cwd=ACCEPTED, env=environment)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "uvicorn", "shop:site", "--port", str(port)]
    site = subprocess.Popen(serve, cwd=ACCEPTED, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    assert "EventSource" in client.get("/").text
                    break
                except httpx.TransportError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            answer = client.post("/exports", params={"shop": "lyon"})
            assert answer.status_code == 202
            place = answer.headers["location"]
            assert client.get(place).json()["state"] in ("queued", "running")
            with client.stream("GET", f"{place}/events") as stream:
                lines = list(stream.iter_lines())
            assert lines.count("event: progress") > 1
            assert lines[-3:-1] == ["event: end", "data: {}"]
            assert client.get(place).json()["result"] == {"shop": "lyon", "rows": 50}
            ids = [line[4:] for line in lines if line.startswith("id: ")]
            again = {"last-event-id": ids[-2]}
            with client.stream("GET", f"{place}/events", headers=again) as stream:
                rest = [line for line in stream.iter_lines() if line.startswith("id: ")]
            assert rest == [f"id: {ids[-1]}"]
    finally:
        site.terminate()
        assert site.wait(30) in (0, -signal.SIGTERM)  # uvicorn ends by the signal itself
        up.terminate()
        assert up.wait(30) == 0
