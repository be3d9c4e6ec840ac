"""Code of tomorrow: the migrations there are, and more on top."""

from __future__ import annotations

import shutil
from pathlib import Path

from mesh_master import schema

__all__ = ["ADDS", "TAKES", "TODAY", "TOMORROW", "with_revision"]


def _newest(folder: Path) -> str:
    return max(path.name[1:5] for path in folder.glob("versions/r*.py"))


TODAY = _newest(schema._FOLDER)
"""The newest revision that the code knows."""
TOMORROW = f"{int(TODAY) + 1:04d}"

ADDS = """
    jobs, weight = f"{prefix}jobs", Column("weight", Integer, server_default="1", nullable=False)
    op.add_column(jobs, weight, schema=schema)
    op.add_column(jobs, Column("colour", String), schema=schema)
    op.create_index(f"{prefix}jobs_colour", jobs, ["colour"], schema=schema)
    op.create_table(f"{prefix}colours", Column("name", String, primary_key=True), schema=schema)
"""
"""What older code does not notice."""

TAKES = """
    op.drop_column(f"{prefix}schedules", "zone", schema=schema)
"""
"""What older code cannot work without."""

_REVISION = """
from sqlalchemy import Column, Integer, String

revision = "{revision}"
down_revision = "{before}"
{works_with}

def upgrade(op, prefix, schema):
{steps}
"""


def with_revision(
    folder: Path, steps: str, *, works_with: str | None = None, on: Path = schema._FOLDER
) -> Path:
    """A folder of migrations in ``folder`` that has one revision more: ``TOMORROW`` if it is on
    those of the code."""
    migrations, before = folder / "migrations", _newest(on)
    revision = f"{int(before) + 1:04d}"
    shutil.copytree(on, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    says = "" if works_with is None else f'works_with = "{works_with}"'
    (migrations / "versions" / f"r{revision}_tomorrow.py").write_text(
        _REVISION.format(revision=revision, before=before, works_with=says, steps=steps)
    )
    return migrations
