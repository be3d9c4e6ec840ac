"""What it costs to understand a cron expression and find its next slot, beside croniter.

python benchmarks/schedules.py [rounds]

Every parse is of another expression, so nobody gains from having seen it before. croniter, and
cronsim where it is installed, are measured in the same run; the ratios are what counts.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from statistics import median
from zoneinfo import ZoneInfo

from mesh.schedule import parse

ZONE = "Europe/Amsterdam"
NOW = datetime(2026, 3, 5, 10, 7, tzinfo=UTC)
CRON = {
    "every few minutes": "{0}-59/{1} {2}-23 * * *",
    "once a day": "{0} {2} * * *",
    "weekdays": "{0} {2} * * MON-FRI",
    "the 13th or Friday": "{0} {2} 13 * FRI",
    "29 Feb": "{0} {2} 29 2 *",
}
NEVER = {
    "30 Feb": "{0} {2} 30 2 *",
    "no 31st there": "{0} {2} 31 2,4,6 *",
    "1st that is the 2nd Monday": "{0} {2} 1 * MON#2 both days",
    "7 years and 29 Feb": "every 4 years anchored on 2023 on feb-29 at {2}:{0:02}",
}
PLAIN = {
    "steps": "every {1} minutes",
    "a window": "every 30 minutes between {2:02}:{0:02} and 23:59 on [mon, fri]",
    "a paced week": "every 2 weeks on [mon, fri] at {2}:{0:02}",
}


def expressions(template: str, rounds: int) -> list[str]:
    """Different ones of a kind."""
    return [
        template.format(number % 50, number % 7 + 2, number // 50 % 20) for number in range(rounds)
    ]


def microseconds(work: Callable[[str], object], texts: list[str]) -> float:
    """The median of what one takes."""
    taken = []
    for text in texts:
        begin = time.perf_counter()
        work(text)
        taken.append(time.perf_counter() - begin)
    return median(taken) * 1e6


def peers() -> dict[str, Callable[[str], object]]:
    """The other libraries that are installed."""
    local = NOW.astimezone(ZoneInfo(ZONE))
    found: dict[str, Callable[[str], object]] = {}
    try:
        croniter = importlib.import_module("croniter").croniter
        found["croniter"] = lambda text: croniter(text, local).get_next(datetime)
    except ImportError:
        pass
    try:
        cronsim = importlib.import_module("cronsim").CronSim
        found["cronsim"] = lambda text: next(cronsim(text, local))
    except ImportError:
        pass
    return found


def ours(text: str) -> datetime | None:
    """A fresh parse and one step."""
    return parse(text, ZONE).next_after(NOW)


def main(rounds: int) -> None:
    others = peers()
    write = sys.stdout.write
    write(f"parse and next_after, µs (median of {rounds}); in brackets, times ours\n")
    for name, template in CRON.items():
        texts = expressions(template, rounds)
        mine = microseconds(ours, texts)
        line = f"{name:28} {mine:8.1f}"
        for peer, work in others.items():
            theirs = microseconds(work, texts)
            line += f"   {peer} {theirs:8.1f} ({theirs / mine:.1f})"
        write(line + "\n")
    for name, template in {**PLAIN, **NEVER}.items():
        write(f"{name:28} {microseconds(ours, expressions(template, rounds)):8.1f}\n")
    schedule = parse("*/5 * * * *", ZONE)
    begin = time.perf_counter()
    count = sum(1 for _ in schedule.between(NOW, NOW + timedelta(days=30)))
    write(f"{'each slot of a month':28} {(time.perf_counter() - begin) / count * 1e6:8.1f}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
