"""Counting attempts by handler and lane. Pure, and cheap enough for each job: no library.

Names come from the cluster, so any number of them may come: beyond ``MOST`` pairs of handler and
lane what is new is counted under ``OTHER``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

__all__ = ["BOUNDS", "MOST", "OTHER", "Spread", "Tally"]

BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0, 3600.0)
"""Upper bounds in seconds."""

MOST = 300
OTHER = "_other"

Pair = tuple[str, str]
"""Handler and lane."""


class Spread:
    """How durations are spread."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """How many were up to each bound and above the one before; the last: above all."""
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds


class Tally:
    """Belongs to one event loop. Counts only grow."""

    def __init__(self, most: int = MOST) -> None:
        self.enqueued: defaultdict[Pair, int] = defaultdict(int)
        self.started: defaultdict[Pair, int] = defaultdict(int)
        self.ended: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        """By handler, lane and outcome, which is the state that the job is in then."""
        self.durations: defaultdict[Pair, Spread] = defaultdict(Spread)
        self.waits: defaultdict[Pair, Spread] = defaultdict(Spread)
        self._most = most
        self._known: set[Pair] = set()

    def pair(self, handler: str, lane: str) -> Pair:
        """The labels under which these are counted."""
        pair = handler, lane
        if pair in self._known:
            return pair
        if len(self._known) >= self._most:
            return OTHER, OTHER
        self._known.add(pair)
        return pair

    def enqueue(self, pair: Pair) -> None:
        self.enqueued[pair] += 1

    def start(self, pair: Pair, waited: float | None = None) -> None:
        """``waited``: seconds from when the attempt might have begun; ``None``: not known."""
        self.started[pair] += 1
        if waited is not None:
            self.waits[pair].add(max(0.0, waited))

    def end(self, pair: Pair, outcome: str, seconds: float | None) -> None:
        """``seconds``: how long it ran; ``None``: it never started."""
        self.ended[pair[0], pair[1], outcome] += 1
        if seconds is not None:
            self.durations[pair].add(max(0.0, seconds))
