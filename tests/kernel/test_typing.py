"""Two type checkers agree on what the SDK's types promise.

What must be an error is marked for each checker, and both report marks that are not needed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "typing"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_mypy_agrees() -> None:
    done = run("mypy", "--strict", "--warn-unused-ignores", str(FOLDER))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(list(FOLDER.glob('*.py')))} source file" in done.stdout


def test_pyright_agrees() -> None:
    done = run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(FOLDER))
    report = json.loads(done.stdout)
    assert report["generalDiagnostics"] == [], done.stdout
    assert report["summary"]["filesAnalyzed"] == len(list(FOLDER.glob("*.py")))
