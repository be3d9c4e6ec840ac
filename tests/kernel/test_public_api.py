"""What ``mesh`` exports, and what its parts may import."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mesh

ROOT = Path(__file__).parents[2]


def test_all_agrees_with_what_is_imported() -> None:
    tree = ast.parse(Path(mesh.__file__).read_text())
    imported = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, "re-exports are written X as X"
                imported.append(alias.name)
    assert sorted(imported) == sorted(mesh.__all__)
    assert mesh.__all__ == sorted(mesh.__all__)


def modules() -> list[str]:
    packages = [mesh.__name__]
    found = pkgutil.walk_packages(mesh.__path__, "mesh.")
    return packages + sorted(m.name for m in found if "conformance" not in m.name)


@pytest.mark.parametrize("name", modules())
def test_every_module_says_what_it_exports(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    for exported in module.__all__:
        assert hasattr(module, exported), exported
    assert len(set(module.__all__)) == len(module.__all__)


def test_importing_mesh_loads_no_driver() -> None:
    code = "import sys, mesh; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    drivers = {"nats", "sqlalchemy", "asyncpg", "aiosqlite", "alembic", "typer", "rich", "pydantic"}
    siblings = {"mesh_agents", "mesh_master", "mesh_workers"}
    assert set(loaded.stdout.split()) & (drivers | siblings) == set()


LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    parts = [folder, *(folder / part for part in ("agents", "master", "workers"))]
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, parts)), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def verdicts(output: str) -> dict[str, str]:
    """Each contract's name, and ``KEPT`` or ``BROKEN``."""
    return dict(re.findall(r"^(.+) (KEPT|BROKEN)(?: .*)?$", output, re.MULTILINE))


def test_the_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(verdicts(done.stdout).values()) == {"KEPT"}


def test_every_import_contract_breaks_when_it_is_violated(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for part in ("mesh", "agents", "master", "workers"):
        shutil.copytree(ROOT / part, tmp_path / part)
    for module, line in {
        "mesh/clock.py": "import mesh_master",
        "agents/mesh_agents/sql/tables.py": "import mesh_workers",
        "mesh/retry.py": "import mesh.app",
        "workers/mesh_workers/role.py": "import nats",
        "master/mesh_master/merge.py": "import asyncpg",
    }.items():
        with (tmp_path / module).open("a") as file:
            file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    contracts = verdicts(done.stdout)
    assert len(contracts) >= 4
    assert set(contracts.values()) == {"BROKEN"}, done.stdout
