"""Running what stands in the docs."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import typer

from mesh import cli, plugins

__all__ = ["JOBS", "blocks", "check_command", "run"]

JOBS = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()


def blocks(title: str) -> list[str]:
    """The code below a heading of the second level of docs/jobs.md."""
    text = JOBS.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


async def run(code: str, names: dict[str, Any]) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    outcome = eval(compile(code, "<docs>", "exec", flags=flags), names)
    if inspect.isawaitable(outcome):
        await outcome


def check_command(line: str) -> None:
    """That there is such a command, with such options; it is not run."""
    root = typer.Typer()
    root.registered_commands += cli.cli.registered_commands
    for name in plugins.names("mesh.commands"):
        plugins.load("mesh.commands", name)(root)
    _, *words = shlex.split(line, comments=True)
    command: Any = typer.main.get_command(root)
    while words and hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(line, words)
