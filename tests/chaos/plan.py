"""What breaks, and when: drawn from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["FAULTS", "Step", "plan"]

_OFTEN: Mapping[str, Mapping[str, int]] = {
    # what happens to a process or server: how often, by deployment
    "kill worker": {"nats": 6, "sql": 6, "embedded": 8},
    "stop worker": {"nats": 4, "sql": 4, "embedded": 5},
    "drain worker": {"nats": 4, "sql": 4, "embedded": 4},
    "hurry worker": {"nats": 3, "sql": 3, "embedded": 4},
    # Where all is one machine, all have its clock.
    "skew worker": {"nats": 2, "sql": 2},
    "kill coordinator": {"nats": 3, "sql": 3},
    "stop coordinator": {"nats": 3, "sql": 3},
    "kill producer": {"nats": 3, "sql": 3, "embedded": 4},
    "cut worker": {"nats": 3, "sql": 3},
    "hang worker": {"nats": 3, "sql": 3},
    "slow worker": {"nats": 2, "sql": 2},
    "cut coordinator": {"nats": 2, "sql": 2},
    "hang coordinator": {"nats": 2, "sql": 2},
    "cut producer": {"nats": 2, "sql": 2},
    "hang producer": {"nats": 2, "sql": 2},
    "restart agent": {"nats": 2, "sql": 2},
    "kill agent": {"nats": 4, "sql": 4},
    "restart master": {"nats": 2, "sql": 2},
    "kill master": {"nats": 3, "sql": 3},
    "fill agent": {"nats": 1, "sql": 1},
    "fill master": {"nats": 1, "sql": 1, "embedded": 2},
    "delete consumer": {"nats": 2},
    "delete stream": {"nats": 2},
    "upgrade": {"nats": 1, "sql": 1, "embedded": 1},
}

FAULTS = {
    fault: {**by, "mariadb": by["sql"]} if "sql" in by else by for fault, by in _OFTEN.items()
}
"""MariaDB is broken as PostgreSQL is."""

_LASTS: Mapping[str, tuple[float, float]] = {
    # seconds; what is not here takes the time it takes
    "kill": (0.0, 2.0),
    "restart": (0.0, 4.0),
    "stop": (3.0, 12.0),
    "cut": (0.5, 6.0),
    "hang": (0.5, 12.0),
    "slow": (3.0, 8.0),
    "skew": (0.0, 0.5),
    "fill": (1.0, 4.0),
}


@dataclass(frozen=True, slots=True)
class Step:
    at: float
    """Seconds from the beginning."""
    fault: str
    """One of ``FAULTS``."""
    which: int
    """Of several processes or servers of that kind, modulo their number."""
    lasts: float
    """Seconds until it is mended."""
    size: float
    """From 0 to 1, for what has one, such as a clock's skew."""


def plan(
    seed: int, deployment: str, seconds: float, only: Sequence[str] = (), calm: float = 3.0
) -> list[Step]:
    """The steps of a run. Each kind comes once before any comes again, so that a run of some
    minutes has all of them but what came too late; ``only`` those named, or whose first word is
    named."""
    weights = {
        fault: by[deployment]
        for fault, by in FAULTS.items()
        if deployment in by and (not only or fault in only or fault.split()[0] in only)
    }
    if not weights:
        return []
    dice = random.Random(f"{seed} {deployment}")

    def faults() -> Iterator[str]:
        first = sorted(weights)
        dice.shuffle(first)
        yield from first
        while True:
            yield dice.choices(list(weights), list(weights.values()))[0]

    steps: list[Step] = []
    at, coming = 2.0, faults()
    while at <= seconds - 2.0:
        fault = next(coming)
        low, high = _LASTS.get(fault.split()[0], (0.0, 0.0))
        step = Step(at, fault, dice.randrange(1000), dice.uniform(low, high), dice.random())
        if at + step.lasts > seconds - 2.0:
            at += 0.3  # too late for this one, perhaps not for the next
            continue
        steps.append(step)
        # Some overlap, most do not; and now and then nothing is broken for a while.
        at += dice.choice([0.3, 1.0, step.lasts, step.lasts + calm])
    return steps
