"""The judge: whether what is known after a run agrees with every promise. Pure.

``check`` gives the violations, of which there are to be none, and figures for the report.

**Twice.** A job that its handler ended well, or that was in a handler, may only run again if
something explains it, between the start of the one attempt and that of the next: the process it ran
in was killed, stopped, cut off or given no time to end, or said that it could not keep its leases;
or its agent or the master was away. A process that was told to end in good order explains nothing.
An attempt that failed may only run again as the same attempt if something explains it since the
job's first one: where it was not known whether the next one had been stored, there are two of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mesh.job import TERMINAL, TRANSITIONS, State

from .evidence import Evidence, Row
from .journal import Entry

__all__ = ["Report", "check"]

AFTERMATH = 12.0
"""Seconds after a fault within which it still explains that a job runs again: leases and
connections take their time."""


MOST_CONNECTIONS = 16
"""To one database server, of one process, roughly: pools may hold more, and are never that full."""

DOOMED = 3
"""Attempts that a job may run that fails each time; those that never began do not count."""

_IN_GOOD_ORDER = ("drain", "skew", "upgrade")


@dataclass
class Report:
    violations: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    explained: Counter[str] = field(default_factory=Counter)
    """How many jobs ran again because of what."""

    @property
    def ok(self) -> bool:
        return not self.violations


@dataclass(frozen=True, slots=True)
class Run:
    """A handler that began, and maybe ended."""

    job: str
    attempt: int
    who: str
    name: str
    parents: tuple[str, ...]
    start: float
    end: float | None
    outcome: str | None

    @property
    def is_over(self) -> bool:
        """It needs no other: it said itself that it wants to run again, or was made to stop."""
        return self.outcome is not None and self.outcome not in ("done", "died", "stopped")


@dataclass(frozen=True, slots=True)
class Fault:
    fault: str
    concerns: str
    start: float
    end: float


def check(evidence: Evidence, *, together: int, slots_every: float, twice_most: int) -> Report:
    """``together``: the limit of ``limited``. ``twice_most``: the most jobs that may run again."""
    report = Report()
    book = _Book(evidence)
    rules: Sequence[Iterable[str]] = (
        _acknowledged(evidence, book),
        _once_each(evidence, book),
        _keys(evidence, book),
        _transactions(evidence, book),
        _histories(evidence),
        _attempts(evidence, book, report),
        _ends(evidence, book),
        _workflows(book),
        _cancels(evidence, book),
        _slots(evidence, book, slots_every),
        _limits(book, together, report),
        _again(book, report, twice_most),
        _remains(evidence, report),
    )
    for rule in rules:
        report.violations += rule
    states = Counter(row.state.value for row in evidence.rows)
    report.figures |= {
        "calls tried": len(book.tried),
        "acknowledged": len(book.acks),
        "outcome unknown": len(book.unknown),
        "refused": len(book.refused),
        "jobs": len(evidence.rows),
        **{f"jobs {state}": count for state, count in sorted(states.items())},
        "attempts begun": len(book.runs),
        "faults left out": sum(entry["e"] == "left out" for entry in evidence.entries),
        "faults": sum(fault.fault != "lease not kept" for fault in book.faults),
    }
    return report


class _Book:
    """The journals, by what they are of."""

    def __init__(self, evidence: Evidence) -> None:
        self.tried: dict[str, Entry] = {}
        self.acks: dict[str, Entry] = {}
        self.stored: set[str] = set()
        self.unknown: set[str] = set()
        doubtful: set[str | None] = set()
        self.refused: set[str] = set()
        self.cancels: dict[str, Entry] = {}
        self.notes: list[Entry] = []
        for entry in evidence.entries:
            match entry["e"]:
                case "try":
                    self.tried[entry["n"]] = entry
                case "ack":
                    self.acks[entry["n"]] = entry
                case "stored":
                    self.stored.add(entry["n"])
                case "unknown":
                    self.unknown.add(entry["n"])
                    doubtful.add(entry.get("job"))
                case "refused":
                    self.refused.add(entry["n"])
                case "cancel":
                    self.cancels[entry["job"]] = entry
                case "died" | "stuck":
                    self.notes.append(entry)
        self.rows = {row.id: row for row in evidence.rows}
        self.by_name: dict[str, list[Row]] = defaultdict(list)
        for row in evidence.rows:
            if row.n is not None:
                self.by_name[row.n].append(row)
        self.runs = list(_runs(evidence.entries))
        self.runs_of: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            self.runs_of[run.job].append(run)
        self.faults = list(_faults(evidence.entries))
        self.downs: dict[str, float] = {
            entry["who"]: entry["t"] for entry in evidence.entries if entry["e"] == "down"
        }
        """When a process was gone."""
        last = max((f.start for f in self.faults if f.fault == "delete stream"), default=0.0)
        self.deleted = {
            job
            for job, runs in self.runs_of.items()
            if job in doubtful and min(run.start for run in runs) < last
        }
        """Jobs of which the caller was told that nobody knows, and that ran before what the agent
        knew of them was deleted."""

    def done_at(self, job: str) -> float | None:
        """When its handler ended well for the first time."""
        ends = [r.end for r in self.runs_of[job] if r.outcome == "done" and r.end is not None]
        return min(ends, default=None)


def _runs(entries: Sequence[Entry]) -> Iterator[Run]:
    # Two runs of one attempt are told apart by who ran it.
    ends: dict[tuple[str, int, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry["e"] == "end":
            ends[entry["job"], entry["attempt"], entry["who"]].append(entry)
    for entry in entries:
        if entry["e"] == "start":
            about = entry["job"], entry["attempt"], entry["who"]
            end = ends[about].pop(0) if ends[about] else None
            yield Run(
                *about,
                entry["name"],
                tuple(entry["parents"]),
                entry["t"],
                None if end is None else end["t"],
                None if end is None else end["outcome"],
            )


def _faults(entries: Sequence[Entry]) -> Iterator[Fault]:
    ends = {entry["number"]: entry["t"] for entry in entries if entry["e"] == "mended"}
    for entry in entries:
        if entry["e"] == "fault":
            end = ends.get(entry["number"], float("inf"))
            yield Fault(entry["fault"], entry["concerns"], entry["t"], end)


# nothing is lost, nothing comes from nowhere --------------------------------------------------


def _acknowledged(evidence: Evidence, book: _Book) -> Iterator[str]:
    for n, ack in book.acks.items():
        row = book.rows.get(ack["job"])
        if row is None:
            yield f"lost: {n} was acknowledged as job {ack['job']}, which the master does not have"
        elif row.state not in TERMINAL:
            yield f"lost: job {row.id} ({n}) was acknowledged and is {row.state} in the end"
    for n in book.stored:
        if not book.by_name[n]:
            yield f"lost: {n} was stored by its error's word, and the master does not have it"
    for row in evidence.rows:
        if row.state not in TERMINAL:
            yield f"lost: job {row.id} ({row.n or row.schedule}) is {row.state} in the end"


def _once_each(evidence: Evidence, book: _Book) -> Iterator[str]:
    told = {entry.get("job") for entry in evidence.entries if entry["e"] in ("ack", "unknown")}
    unanswered = book.tried.keys() - book.acks.keys() - book.stored - book.refused
    for row in evidence.rows:
        if row.schedule is not None or row.n in book.tried:
            continue
        # Where an agent stored the job and not that it did, its arguments never came here.
        if row.n is not None or not (row.id in told or unanswered):
            yield f"unexpected: job {row.id} ({row.name}, {row.n}), which nobody enqueued"
    for n, rows in book.by_name.items():
        if len(rows) > 1:
            yield f"unexpected: {n} is {len(rows)} jobs: {', '.join(row.id for row in rows)}"
        if n in book.refused and n not in book.acks and n not in book.unknown:
            yield f"unexpected: {n} was refused, and is job {rows[0].id}"
        ack = book.acks.get(n)
        if ack is not None and not ack["existing"] and ack["job"] != rows[0].id:
            yield f"unexpected: {n} was acknowledged as {ack['job']} and is {rows[0].id}"
    for job in book.runs_of:
        if job not in book.rows and job not in book.deleted:
            yield f"unexpected: job {job} ran, and the master does not have it"


def _keys(evidence: Evidence, book: _Book) -> Iterator[str]:
    keyed: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.rows:
        if row.key is not None:
            keyed[row.key].append(row)
    for key, rows in keyed.items():
        if key.startswith("once-") and len(rows) > 1:
            yield f"key {key} stands for {len(rows)} jobs: {', '.join(row.id for row in rows)}"
    answers: dict[str, set[str]] = defaultdict(set)
    for n, ack in book.acks.items():
        tried = book.tried[n].get("key", "")
        if tried.startswith("once-"):
            answers[tried].add(ack["job"])
    for key, jobs in answers.items():
        if len(jobs) > 1:
            yield f"key {key} was answered with {len(jobs)} jobs: {', '.join(sorted(jobs))}"
    # One at a time: none begins before the handler of the one before has ended.
    for key, rows in keyed.items():
        if not key.startswith("alone-"):
            continue
        began = [
            (min(r.start for r in runs), row) for row in rows if (runs := book.runs_of[row.id])
        ]
        for (_, earlier), (start, later) in pairwise(sorted(began, key=lambda pair: pair[0])):
            done = book.done_at(earlier.id)
            if earlier.state is State.SUCCEEDED and (done is None or done > start):
                yield f"key {key}: job {later.id} began before job {earlier.id} had ended"


def _transactions(evidence: Evidence, book: _Book) -> Iterator[str]:
    for n, entry in book.tried.items():
        if entry["kind"] != "transaction":
            continue
        if (n in evidence.orders) != bool(book.by_name[n]):
            there = "order" if n in evidence.orders else "job"
            yield f"transaction {n}: its {there} is there, and the other is not"
    for n in evidence.orders - book.tried.keys():
        yield f"transaction {n}: an order that nobody made"


# what the history says ------------------------------------------------------------------------


def _reachable() -> Mapping[State, frozenset[State]]:
    reach = {state: set(after) for state, after in TRANSITIONS.items()}
    while True:
        grown = {s: after.union(*(reach[a] for a in after)) for s, after in reach.items()}
        if grown == reach:
            return {state: frozenset(after) for state, after in reach.items()}
        reach = grown


_REACHABLE = _reachable()
_GOES_ON = frozenset({"retrying", "lost", "snoozed"})


def _histories(evidence: Evidence) -> Iterator[str]:
    ends = {row.id: (row.state, row.attempt) for row in evidence.rows}
    for job, seen in evidence.seen.items():
        if job not in ends:
            yield f"history: job {job} was seen, and is gone"
            continue
        path = [*seen, ends[job]]
        for (state, attempt), (then, next_attempt) in pairwise(path):
            if (state, attempt) == (then, next_attempt):
                continue
            # Within an attempt forward only; with a new one it may be seen queued again.
            again = next_attempt > attempt and state not in TERMINAL
            # The first terminal outcome counts, be it that of an attempt thought lost.
            goes_on = next_attempt >= attempt or then in TERMINAL
            forward = then in _REACHABLE[state] and goes_on
            if not (forward or again):
                yield (
                    f"history: job {job} was {state} (attempt {attempt}) and then {then} "
                    f"(attempt {next_attempt})"
                )
    for job, story in evidence.stories.items():
        yield from _story(job, story)


def _story(job: str, story: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Enqueued; then attempts that begin and go on; then one end."""
    words = [word for word, _ in story]
    told = f"history: job {job} is told as {' '.join(f'{w}#{a}' for w, a in story)}"
    if not words or words[0] != "enqueued" or words.count("enqueued") != 1:
        yield f"{told}: it does not begin as enqueued"
    if not words or words[-1] not in {state.value for state in TERMINAL}:
        yield f"{told}: it does not end"
    numbers = [attempt for word, attempt in story if word in _GOES_ON]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"{told}: attempts are not numbered one after another"
    for (word, _), (then, _) in pairwise(story):
        allowed = {
            "enqueued": {"started", *_GOES_ON} | {s.value for s in TERMINAL},
            "started": {*_GOES_ON, "succeeded", "failed", "cancelled"},
        }
        after = {"started", *_GOES_ON, "failed", "cancelled", "expired", "succeeded"}
        if then not in allowed.get(word, after if word in _GOES_ON else set()):
            yield f"{told}: {then} after {word}"


def _attempts(evidence: Evidence, book: _Book, report: Report) -> Iterator[str]:
    """Each has its row; but for those whose worker stored the next one on its agent, and had no
    time to tell what became of this one."""
    untold = 0
    for row in evidence.rows:
        earlier = evidence.attempts.get(row.id, {})
        for number in sorted(set(range(1, row.attempt)) - earlier.keys()):
            ran = [run for run in book.runs_of[row.id] if run.attempt == number]
            if any(run.is_over and _explanation(book, run, run) for run in ran):
                untold += 1
            else:
                yield f"attempts: job {row.id} is at {row.attempt}, and has no {number}"
    report.figures["attempts of which the history has no row"] = untold


def _ends(evidence: Evidence, book: _Book) -> Iterator[str]:
    """Each ends as its handler makes it, whatever happened on the way."""
    # Where a stream was deleted before its jobs' beginnings were told, one may not be counted.
    most = DOOMED + any(fault.fault == "delete stream" for fault in book.faults)
    for row in evidence.rows:
        if row.id in book.deleted and row.n is None and row.state is State.FAILED:
            continue  # The master heard that it ran, and has no arguments to run it with again.
        kind = "slot" if row.schedule else book.tried.get(row.n or "", {}).get("kind")
        wanted = {
            "doomed": {State.FAILED},
            "cancelled": {State.CANCELLED, State.SUCCEEDED},
            "slot": {State.SUCCEEDED, State.CANCELLED},
        }.get(kind or "", {State.SUCCEEDED})
        if row.state in TERMINAL and row.state not in wanted:
            yield f"end: job {row.id} ({row.name}, {kind}) {row.state} at attempt {row.attempt}"
        ran = {run.attempt for run in book.runs_of[row.id]}
        if kind == "doomed" and len(ran) > most:
            yield f"end: job {row.id} ({row.name}) ran {len(ran)} attempts, {most} at most"
        if row.state is State.SUCCEEDED and book.done_at(row.id) is None:
            yield f"end: job {row.id} ({row.name}) succeeded, and no handler says so"


def _workflows(book: _Book) -> Iterator[str]:
    for run in book.runs:
        for parent in run.parents:
            done = book.done_at(parent)
            if done is None or done > run.start:
                yield f"workflow: job {run.job} began before its parent {parent} had ended"


def _cancels(evidence: Evidence, book: _Book) -> Iterator[str]:
    for job, entry in book.cancels.items():
        if entry["state"] is None or (row := book.rows.get(job)) is None:
            continue
        told = State(entry["state"])
        if told in TERMINAL and row.state is not told:
            yield f"cancel: job {job} was said to be {told}, and is {row.state}"
        began = min((run.start for run in book.runs_of[job]), default=0.0)
        if told is State.CANCELLED and began > entry["t"]:
            yield f"cancel: job {job} was said to be {told}, and began then"


def _slots(evidence: Evidence, book: _Book, every: float) -> Iterator[str]:
    for schedule in ("each", "latest"):
        slots = [row.slot for row in evidence.rows if row.schedule == schedule]
        counts = Counter(slot for slot in slots if slot is not None)
        for slot, count in counts.items():
            if count > 1:
                yield f"schedule {schedule}: slot {slot} has {count} jobs"
        if not counts:
            yield f"schedule {schedule}: it made no job"
        elif schedule == "each":
            first, last = min(counts), max(counts)
            missing = round((last - first) / every) + 1 - len(counts)
            if missing:
                yield f"schedule {schedule}: {missing} slots between its first and last have no job"


# at once, and again ---------------------------------------------------------------------------


def _limits(book: _Book, together: int, report: Report) -> Iterator[str]:
    """A job has its place until its end, so what counts is distinct jobs, each from the start of
    a run to its end, to that of its process, or to when the job was done by another."""
    changes: list[tuple[float, int, str]] = []
    for run in book.runs:
        if run.name != "limited":
            continue
        done = book.done_at(run.job)
        ends = [run.end, book.downs.get(run.who), done]
        end = min((e for e in ends if e is not None and e >= run.start), default=run.start)
        if done is not None and done < run.start:
            continue  # it had ended already: a run of a worker that did not know
        changes += [(run.start, 1, run.job), (end, -1, run.job)]
    under_way: Counter[str] = Counter()
    most = 0
    for at, change, job in sorted(changes):
        under_way[job] += change
        if not under_way[job]:
            del under_way[job]
        most = max(most, len(under_way))
        if len(under_way) > together and change > 0:
            these = ", ".join(under_way)
            yield f"limit: {len(under_way)} jobs of 'limited' at once, at {at:.3f}: {these}"
    report.figures["limited at once, at most"] = most


def _again(book: _Book, report: Report, most: int) -> Iterator[str]:
    twice = 0
    for job, runs in book.runs_of.items():
        runs.sort(key=lambda run: run.start)
        for run, then in pairwise(runs):
            if run.is_over and then.attempt > run.attempt:
                continue
            twice += 1
            in_doubt = [r for r in runs if r.start <= run.start] if run.is_over else [run]
            reasons = (_explanation(book, each, then) for each in in_doubt)
            why = next(filter(None, reasons), None)
            if why is None:
                yield (
                    f"again: job {job} ({run.name}) ran as attempt {run.attempt} in {run.who} "
                    f"({run.outcome or 'no end'}), and as {then.attempt} in {then.who} "
                    f"{then.start - run.start:.3f} s later (at {then.start:.3f}), with no reason"
                )
            else:
                report.explained[why] += 1
    report.figures["ran again"] = twice
    if twice > most:
        yield f"again: {twice} attempts ran again, and {most} are the most that faults explain"


def _explanation(book: _Book, run: Run, then: Run) -> str | None:
    less = None
    for fault in book.faults:
        if fault.fault.split()[0] in _IN_GOOD_ORDER:
            continue
        if fault.start > then.start or fault.end + AFTERMATH < run.start:
            continue
        if fault.concerns == run.who and fault.fault != "lease not kept":
            return fault.fault
        if fault.concerns in ("agent", "master") or (fault.concerns == run.who and less is None):
            less = fault.fault
    return less


def _remains(evidence: Evidence, report: Report) -> Iterator[str]:
    for what, count in evidence.left.items():
        yield f"left: {count} {what}"
    died = {entry["who"] for entry in evidence.entries if entry["e"] == "died"}
    for entry in evidence.entries:
        if entry["e"] == "died":
            yield f"process: {entry['who']} ended by itself, with {entry['code']}"
        if entry["e"] == "down" and entry.get("code", 0) > 0 and entry["who"] not in died:
            yield f"process: {entry['who']} ended with {entry['code']} when told to"
        if entry["e"] == "stuck":
            yield f"process: {entry['who']} did not end when told to"
    for server, count in evidence.connections.items():
        report.figures[f"connections to the {server}"] = count
        if count > evidence.processes * MOST_CONNECTIONS:
            yield f"connections: {server} has {count}, of {evidence.processes} processes"
    for who, megabytes in evidence.growth.items():
        if megabytes > 60:
            yield f"memory: {who} grew by {megabytes:.0f} MB"
