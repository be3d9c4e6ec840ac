"""A module whose annotations name what it defines further down."""

from __future__ import annotations

from dataclasses import dataclass

from mesh import Context, Job, Mesh

app = Mesh(agents={"m": "memory://later"})


@app.job
async def early(value: Later, ctx: Context[Progress]) -> Later:
    return value


class EarlyRequest(Job["Later"], name="early.request"):
    value: Later


@app.job
def broken(value: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


class BrokenRequest(Job["Nowhere"]):  # type: ignore[name-defined]
    pass


@dataclass
class Later:
    inner: Later | None = None


@dataclass
class Progress:
    done: int
