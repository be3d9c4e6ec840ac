"""The simulation behind docs/scale.md."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale import BASE, GROWTH, HEADROOM, LAYOUTS, Layout, simulate


def test_the_page_is_fresh() -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--check"]
    assert subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode == 0


@pytest.mark.parametrize("growth", GROWTH)
def test_the_last_layout_of_each_size_holds(growth: int) -> None:
    *before, last = [simulate(BASE * growth, layout) for layout in LAYOUTS[growth]]
    assert last.holds
    assert not any(outcome.holds for outcome in before)


@given(st.floats(1, 1e6), st.integers(1, 20), st.integers(1, 1000))
def test_more_never_makes_it_worse(rate: float, agents: int, workers: int) -> None:
    layout = Layout(agents=agents, workers=workers)
    now = simulate(rate, layout)
    more = simulate(rate, replace(layout, agents=agents + 1, workers=workers + 1))
    assert more.lane <= now.lane + 1
    assert all(more.busy[stage] <= busy for stage, busy in now.busy.items())
    assert simulate(rate * 2, layout).disk == pytest.approx(2 * now.disk)


def test_what_is_beyond_its_limit_waits() -> None:
    few = simulate(2000, Layout(workers=2))
    assert few.first == "workers"
    assert few.busy["workers"] > 1 > HEADROOM
    # An hour of twice as many as can run.
    assert few.lane > 3000
