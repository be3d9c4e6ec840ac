"""The examples do what they say, embedded in one SQLite file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .processes import MESH

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
