"""Two type checkers agree on what the SDK's types promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "typing"


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_the_checkers_agree(checker: str, tmp_path: Path) -> None:
    if checker == "mypy":
        command = ["mypy", "--strict", "--warn-unused-ignores", str(FOLDER)]
    else:
        # mypy's ignores must not silence pyright.
        project = tmp_path / "pyrightconfig.json"
        settings = {"include": [str(FOLDER)], "enableTypeIgnoreComments": False}
        project.write_text(json.dumps(settings))
        command = ["pyright", "--pythonpath", sys.executable, "--project", str(project)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No source files found" not in done.stdout
