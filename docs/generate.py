"""Writes the parts of the docs that come from code; ``--check`` only says what is stale.

python docs/generate.py [--check]
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

import mesh.config
import mesh.wire
from mesh.config import Config
from mesh.job import INITIAL, TERMINAL, TRANSITIONS
from mesh.plugins import connect_agent, connect_master
from mesh.ports import AgentCapabilities, AgentSettings, MasterCapabilities, MasterSettings

DOCS = Path(__file__).parent


def state_diagram() -> str:
    """The transition table as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {state}" for state in TRANSITIONS if state in INITIAL]
    for state, following in TRANSITIONS.items():
        lines += [f"    {state} --> {after}" for after in TRANSITIONS if after in following]
    lines += [f"    {state} --> [*]" for state in TRANSITIONS if state in TERMINAL]
    return "\n".join([*lines, "```"])


def settings_table() -> str:
    """The fields of ``Config``."""
    described = _attribute_docs(mesh.config, "Config")
    lines = ["| key | variable | default | |", "|---|---|---|---|"]
    for field in fields(Config):
        if field.name == "given":  # not a key
            continue
        default = "" if field.default is MISSING else f"`{field.default}`"
        text = described.get(field.name, "")
        lines.append(f"| `{field.name}` | `MESH_{field.name.upper()}` | {default} | {text} |")
    # Policies are tables: there is no variable for them.
    return "\n".join(lines).replace("`MESH_RETRY`", "")


def wire_tables() -> str:
    """Jobs and records, field by field."""
    parts = []
    for kind in (
        mesh.wire.Envelope,
        mesh.wire.Accepted,
        mesh.wire.Started,
        mesh.wire.Retrying,
        mesh.wire.Finished,
        mesh.wire.Event,
        mesh.wire.Heartbeat,
        mesh.wire.Defined,
        mesh.wire.LaneLoad,
        mesh.wire.ErrorInfo,
        mesh.wire.Retry,
    ):
        info = msgspec.inspect.type_info(kind)
        assert isinstance(info, msgspec.inspect.StructType)
        tag = f"`{info.tag!r}`, then " if info.tag else ""
        title = "A job" if kind is mesh.wire.Envelope else kind.__name__
        purpose = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
        names = ", ".join(f"`{field.name}`" for field in info.fields)
        parts.append(f"### {title}\n\n{purpose}\n\n{tag}{names}")
    return "\n\n".join(parts)


AGENTS = {
    "NATS": "nats://host",
    "PostgreSQL": "postgresql://host/mesh",
    "MariaDB": "mariadb://host/mesh",
    "SQLite": "sqlite:///mesh.db",
}
MASTERS = {name: url for name, url in AGENTS.items() if name != "NATS"}


def capability_tables() -> str:
    """What each kind of agent and master declares, and why it cannot the rest."""
    agents: dict[str, Any] = {
        name: connect_agent("docs", url, AgentSettings()).capabilities
        for name, url in AGENTS.items()
    }
    masters: dict[str, Any] = {
        name: connect_master(url, MasterSettings()).capabilities for name, url in MASTERS.items()
    }
    return "\n\n".join(
        [
            _capability_table("agent", AgentCapabilities, agents),
            _capability_table("master", MasterCapabilities, masters),
        ]
    )


def _capability_table(what: str, kind: type, declared: Mapping[str, Any]) -> str:
    lines = [f"| {what} | {' | '.join(declared)} |", "|---|" + "---|" * len(declared)]
    for name, text in _attribute_docs(sys.modules[kind.__module__], kind.__name__).items():
        if name == "why_not":
            continue
        cells = [
            "yes" if getattr(each, name) else f"no: {each.why_not[name]}"
            for each in declared.values()
        ]
        lines.append(f"| {text.rstrip('.')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def route_table() -> str:
    """The routes of the HTTP API, with the scope that each needs."""
    from mesh.app import Mesh
    from mesh.sign_in import Scope
    from mesh_master.api import create_app

    lines = ["| | | scope | |", "|---|---|---|---|"]
    rows: list[tuple[str, str, str]] = []
    for route in create_app(Mesh("sqlite:///docs.db")).routes:
        for handler in getattr(route, "route_handlers", ()):
            if not handler.include_in_schema and handler.include_in_schema is not None:
                continue
            if "openapi" in route.path or not handler.fn.__module__.startswith("mesh_master"):
                continue
            needed = [g.scope for g in handler.guards or () if hasattr(g, "scope")]
            scope = max(needed, key=list(Scope).index, default="")
            (summary,) = (inspect.getdoc(handler.fn) or "").split("\n\n")[:1]
            for method in sorted(handler.http_methods - {"OPTIONS", "HEAD"}):
                path = re.sub(r":\w+", "", route.path)
                text = " ".join(summary.split())
                rows.append((path, method, f"| {method} | `{path}` | {scope} | {text} |"))
    return "\n".join([*lines, *(line for *_, line in sorted(rows))])


def _attribute_docs(module: object, class_name: str) -> dict[str, str]:
    """The strings that stand under a class's attributes."""
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    (body,) = (
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    found: dict[str, str] = {}
    for one, two in pairwise(body):
        if (
            isinstance(one, ast.AnnAssign)
            and isinstance(one.target, ast.Name)
            and isinstance(two, ast.Expr)
            and isinstance(two.value, ast.Constant)
        ):
            found[one.target.id] = " ".join(str(two.value.value).split()).replace("``", "`")
    return found


def main(check: bool) -> int:
    """The number of stale files."""
    stale = 0
    for name, marker, text in (
        ("architecture.md", "states", state_diagram()),
        ("configuration.md", "settings", settings_table()),
        ("wire.md", "wire", wire_tables()),
        ("jobs.md", "capabilities", capability_tables()),
        ("api.md", "routes", route_table()),
    ):
        path = DOCS / name
        old = path.read_text()
        new = re.sub(
            rf"(<!-- {marker}: begin -->\n).*?(<!-- {marker}: end -->)",
            lambda m, text=text: f"{m[1]}{text}\n{m[2]}",
            old,
            flags=re.DOTALL,
        )
        if new != old:
            stale += 1
            sys.stdout.write(f"{name}: {'is stale: run make docs' if check else 'written'}\n")
            if not check:
                path.write_text(new)
    return stale


if __name__ == "__main__":
    check = "--check" in sys.argv
    sys.exit(main(check) if check else min(0, main(check)))
