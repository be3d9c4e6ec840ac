"""The picture of ``mesh top``: a pure function of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mesh import __version__
from mesh.clock import to_datetime
from mesh.job import State
from mesh.ports import AgentInfo, Backlog, Bucket, JobInfo
from mesh.settings import ClusterSettings
from mesh.wire import Heartbeat

# rich takes long to import, and this module is imported for every command there is.
if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["Board", "view"]


@dataclass(frozen=True, slots=True)
class Board:
    """What is to be seen."""

    at: float
    cluster: str
    away: str = ""
    """Why the master cannot be asked; what else is here is as it was before."""
    settings: ClusterSettings = field(default_factory=ClusterSettings)
    states: Mapping[State, int] = field(default_factory=dict)
    minutes: Sequence[Bucket] = ()
    """The latest last; it has not ended."""
    backlog: Mapping[str, Backlog] = field(default_factory=dict)
    lanes: Sequence[str] = ()
    agents: Sequence[AgentInfo] = ()
    workers: Sequence[Heartbeat] = ()
    running: Sequence[JobInfo] = ()
    progress: Mapping[str, str] = field(default_factory=dict)
    """By job id."""
    failed: Sequence[JobInfo] = ()


def view(board: Board, width: int = 80, height: int | None = None) -> RenderableType:
    """The board in so many columns and, if given, at most so many lines."""
    from rich.console import Group

    head = _head(board, width)
    if board.away and not board.states:
        return Group(*head)
    is_wide = width >= 100
    sections = [
        _Section("LANE", ("depth", "oldest", "workers", "running", ""), _lane_rows(board)),
        _Section("AGENT", ("recorded", "where"), _agent_rows(board)),
        _Section("WORKER", ("state", "agent", "load", "ended", "seen"), _worker_rows(board)),
        _Section("RUNNING", ("lane", "since", "progress", "job"), _running_rows(board)).without(
            () if is_wide else ("lane",)
        ),
        _Section("FAILED", ("when", "error", "job"), _failed_rows(board)),
    ]
    needs = [max(1, len(section.rows)) for section in sections]
    if height is not None:
        needs = _share(needs, height - len(head) - len(sections))
    return Group(*head, *(s.table(width, n) for s, n in zip(sections, needs, strict=True) if n))


def _share(needs: Sequence[int], room: int) -> list[int]:
    """Lines for each: as many as it needs, as far as there are, fairly."""
    given = [0] * len(needs)
    for _ in range(max(0, min(room, sum(needs)))):
        hungry = [n for n, need in enumerate(needs) if given[n] < need]
        given[min(hungry, key=lambda n: given[n])] += 1
    return given


def _head(board: Board, width: int) -> list[RenderableType]:
    from rich.text import Text

    now = to_datetime(board.at).strftime("%H:%M:%SZ")
    title = Text(no_wrap=True, overflow="ellipsis")
    title.append(f"jobmesh {__version__}", "bold")
    title.append(f"  cluster {board.cluster}, {board.settings.mode}  {now}  ")
    title.append("q: quit", "dim")
    lines: list[RenderableType] = [title]
    if board.away:
        problem = Text(no_wrap=True, overflow="ellipsis", style="bold red")
        lines.append(problem.append(f"{' '.join(board.away.split())}; trying again"))
    states = Text(no_wrap=True, overflow="ellipsis")
    for state in State:
        count = board.states.get(state, 0)
        if count or state not in _RARE:
            style = "red" if state is State.FAILED and count else "" if count else "dim"
            states.append(f"{state} {count:,}  ", style)
    return [*lines, states, _throughput(board.minutes, width)]


_RARE = (State.WAITING, State.SKIPPED, State.EXPIRED, State.CANCELLED)
_BARS = "▁▂▃▄▅▆▇█"


def _throughput(minutes: Sequence[Bucket], width: int) -> RenderableType:
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    if len(minutes) < 2:
        return line
    last = minutes[-2]  # the latest has only begun
    line.append(f"last minute: {last.enqueued:,} enqueued, {_ended(last):,} ended, ")
    line.append(f"{last.failed:,} failed  ", "red" if last.failed else "")
    ends = [_ended(minute) for minute in minutes]
    ends = ends[-max(1, width - len(line) - len(" 30 min")) :]
    most = max(1, *ends)
    bars = (_BARS[round(count / most * (len(_BARS) - 1))] if count else " " for count in ends)
    return line.append("".join(bars), "cyan").append(f" {len(ends)} min", "dim")


def _ended(bucket: Bucket) -> int:
    return bucket.succeeded + bucket.failed + bucket.cancelled + bucket.skipped + bucket.expired


Row = tuple[str, ...]

_WIDER = {"error": 5, "progress": 5, "where": 5}
"""Shares of the width."""


@dataclass(frozen=True, slots=True)
class _Section:
    """A table whose first column has its name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]

    def without(self, columns: Sequence[str]) -> _Section:
        kept = [n for n, column in enumerate(self.columns, start=1) if column not in columns]
        rows = [(row[0], *(row[n] for n in kept)) for row in self.rows]
        return _Section(self.title, [self.columns[n - 1] for n in kept], rows)

    def table(self, width: int, lines: int) -> Table:
        from rich.table import Table
        from rich.text import Text

        hidden = len(self.rows) - lines
        count = f"({lines} of {len(self.rows)})" if hidden > 0 else ""
        table = Table(box=None, pad_edge=False, width=width, header_style="bold")
        for column in (self.title, *self.columns):
            # The id of a job whole: it is what one acts on.
            whole = column == "job"
            table.add_column(
                f"{column} {count}".strip() if column == self.columns[-1] else column,
                no_wrap=True,
                overflow="ellipsis",
                min_width=36 if whole else None,
                ratio=None if whole else _WIDER.get(column, 3 if column == self.title else 2),
            )
        for row in self.rows[:lines] or [("none", *[""] * len(self.columns))]:
            # Text: what people and handlers wrote is no markup.
            table.add_row(*(Text(cell) for cell in row))
        return table


def _lane_rows(board: Board) -> list[Row]:
    rows: list[tuple[int, Row]] = []
    for lane in board.lanes:
        backlog = board.backlog.get(lane, Backlog())
        loads = [load for w in board.workers for load in w.lanes if load.lane == lane]
        state = board.settings.lane(lane)
        depth = backlog.held + backlog.sent
        note = str(state) if state != "active" else "" if loads else "no worker"
        cells = (
            lane,
            f"{depth:,}",
            "" if backlog.oldest_at is None else _age(board.at - backlog.oldest_at),
            str(len(loads)),
            f"{sum(load.running for load in loads)}/{sum(load.concurrency for load in loads)}",
            note,
        )
        rows.append((depth, cells))
    return [cells for _, cells in sorted(rows, key=lambda row: (-row[0], row[1]))]


def _agent_rows(board: Board) -> list[Row]:
    return [
        (
            agent.name,
            f"{_age(board.at - agent.seen_at)} ago" if agent.seen_at else "never",
            agent.url,
        )
        for agent in board.agents
    ]


def _worker_rows(board: Board) -> list[Row]:
    return [
        (
            worker.worker,
            worker.state,
            worker.agent,
            f"{sum(x.running for x in worker.lanes)}/{sum(x.concurrency for x in worker.lanes)}",
            f"{worker.finished:,}",
            f"{_age(board.at - worker.at)} ago",
        )
        for worker in sorted(board.workers, key=lambda worker: worker.worker)
    ]


def _running_rows(board: Board) -> list[Row]:
    return [
        (
            job.name,
            job.lane,
            _age(board.at - (job.started_at or board.at)),
            board.progress.get(job.id, ""),
            job.id,
        )
        for job in board.running
    ]


def _failed_rows(board: Board) -> list[Row]:
    return [
        (
            job.name,
            f"{_age(board.at - (job.finished_at or board.at))} ago",
            " ".join(f"{job.error_type}: {job.error_message}".split()),
            job.id,
        )
        for job in board.failed
    ]


def _age(seconds: float) -> str:
    """A duration in one figure and unit: ``42s``, ``7m``, ``3h``, ``2d``."""
    seconds = max(0.0, seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
