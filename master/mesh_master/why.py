"""Why a job does not run, and what to do.

Pure: what is known of the job and its cluster becomes sentences. ``mesh_master.circumstances``
finds what is known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mesh.clock import to_datetime
from mesh.job import TERMINAL, State
from mesh.ports import Backlog, JobInfo, LimitInfo, Wait
from mesh.settings import AgentState, ClusterSettings, LaneState, Mode
from mesh.wire import Heartbeat

__all__ = ["Reason", "Standing", "why"]

_SHOWN = 3
"""Parents of a job that are named."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that a job waits for."""

    text: str
    advice: str = ""
    """The next step; empty: there is none to take."""
    trouble: bool = False
    """It does not go away by itself."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a cluster, as far as it concerns some jobs."""

    now: float
    settings: ClusterSettings = field(default_factory=ClusterSettings)
    agents: Mapping[str, Collection[str] | None] = field(default_factory=dict)
    """Those of the cluster, and the lanes that each serves; ``None``: all."""
    unreachable: Mapping[str, str] = field(default_factory=dict)
    """Agents that could not be reached from here, with the error."""
    workers: Sequence[Heartbeat] = ()
    """Those that were heard of lately."""
    leases: Mapping[str, str] = field(default_factory=dict)
    """Which duties coordinators have now."""
    handlers: Collection[str] = ()
    """The names that workers ever told of."""
    backlog: Mapping[str, Backlog] = field(default_factory=dict)
    """By lane."""
    waits: Mapping[str, Wait] = field(default_factory=dict)
    """Of the jobs that the master holds."""
    parents: Mapping[str, JobInfo] = field(default_factory=dict)
    """The jobs that those wait for."""


def why(job: JobInfo, standing: Standing) -> list[Reason]:
    """All that keeps a job from running now, what decides first. Empty: it has ended, or runs.

    What comes later in the job's way is told as well, so that who mends the first finds no second.
    """
    if job.state in TERMINAL:
        return []
    if job.state is State.RUNNING:
        return list(_runs(job, standing))
    is_due = job.due_at is None or job.due_at <= standing.now
    reasons = [*_expired(job, standing), *_mode(standing)]
    if job.state is State.WAITING:
        reasons += _parents(job, standing)
    elif job.state is State.SCHEDULED:
        reasons += _held(job, standing)
    else:
        reasons += _sent(job, standing)
    reasons += _duties(job, standing)
    if job.state is not State.WAITING and is_due:
        reasons += _workers(job, standing)
    if not reasons:
        what = "hand it to an agent" if job.state is State.SCHEDULED else "start it"
        who = "a coordinator" if job.state is State.SCHEDULED else "a worker"
        reasons.append(Reason(f"nothing: {who} is about to {what}"))
    return reasons


def _runs(job: JobInfo, standing: Standing) -> Iterator[Reason]:
    if job.worker is not None and all(beat.worker != job.worker for beat in standing.workers):
        yield Reason(
            f"it runs, but its worker {job.worker} has not been heard of lately: if that is dead, "
            "another takes the job over when its lease ends",
            "mesh workers --all",
            trouble=True,
        )


def _expired(job: JobInfo, standing: Standing) -> Iterator[Reason]:
    if job.expires_at is not None and job.expires_at <= standing.now and job.started_at is None:
        yield Reason(
            f"it was to start by {_moment(job.expires_at)}: it will not, and ends expired as soon "
            "as somebody has it in hand"
        )


def _mode(standing: Standing) -> Iterator[Reason]:
    mode = standing.settings.mode
    if mode is not Mode.ACTIVE:
        yield Reason(
            f"the cluster is {mode}, so no job starts", "mesh cluster mode active", trouble=True
        )


def _parents(job: JobInfo, standing: Standing) -> Iterator[Reason]:
    parents = standing.waits.get(job.id, Wait()).parents
    for parent, outcome in list(parents.items())[:_SHOWN]:
        it = standing.parents.get(parent)
        end = "end" if outcome == "finished" else outcome
        if it is None:
            yield Reason(
                f"it waits for the {end} of job {parent}, of which the master has not heard",
                f"if that never comes: mesh jobs cancel {job.id}",
                trouble=True,
            )
        else:
            yield Reason(
                f"it waits for the {end} of job {parent} ({it.name}), which is {it.state}",
                f"mesh jobs show {parent}",
            )
    if len(parents) > _SHOWN:
        yield Reason(f"it waits for {len(parents) - _SHOWN} other jobs as well")
    if not parents:
        yield Reason("what it waited for has ended: a coordinator is about to let it go")


def _held(job: JobInfo, standing: Standing) -> Iterator[Reason]:
    wait = standing.waits.get(job.id, Wait())
    if job.due_at is not None and job.due_at > standing.now:
        yield Reason(f"it is due at {_moment(job.due_at)}, in {_span(job.due_at - standing.now)}")
    else:
        yield from map(_limit, wait.limits)
    state = standing.settings.lane(job.lane)
    if state is LaneState.DRAINING:
        yield Reason(
            f"the lane {job.lane} is draining: its new jobs stay on the master",
            f"mesh lanes resume {job.lane}",
            trouble=True,
        )
    elif state is LaneState.PAUSED:
        yield _paused(job.lane)
    yield from _no_agent(job, wait, standing)


def _limit(limit: LimitInfo) -> Reason:
    kind, _, name = limit.key.partition(":")
    name = name.partition(":concurrency" if limit.concurrency else ":rate")[0]
    if limit.concurrency:
        return Reason(
            f"of the limit {limit.key}, {limit.concurrency} may be under way at once, and "
            f"{limit.taken} are",
            f"which: mesh jobs ls --{'lane' if kind == 'lane' else 'name'} {name} --state running; "
            "a dead worker's places come back when its leases end",
        )
    pace = f"{limit.rate:g} a second" if limit.rate >= 1 else f"one in {_span(1 / limit.rate)}"
    return Reason(f"the limit {limit.key} lets {pace} begin, and others come first")


def _no_agent(job: JobInfo, wait: Wait, standing: Standing) -> Iterator[Reason]:
    if wait.agent is not None and wait.agent not in standing.agents:
        yield Reason(
            f"it may go to the agent {wait.agent} alone, which is not in the cluster",
            f"mesh agents add {wait.agent} URL, or mesh jobs cancel {job.id}",
            trouble=True,
        )
        return
    serving = [
        name
        for name, lanes in standing.agents.items()
        if (lanes is None or job.lane in lanes) and wait.agent in (None, name)
    ]
    if not serving:
        which = "no agent" if wait.agent is None else f"its agent {wait.agent} not"
        yield Reason(
            f"the lane {job.lane} is served by {which}",
            f"give an agent the lane {job.lane}, in the configuration or by mesh agents add",
            trouble=True,
        )
        return
    stopped = [*_stopped(serving, standing)]
    if len(stopped) == len(serving):
        yield from stopped


def _stopped(agents: Sequence[str], standing: Standing) -> Iterator[Reason]:
    """One for each of the agents that takes no jobs."""
    for name in agents:
        if standing.settings.agent(name).state is AgentState.DRAINING:
            yield Reason(
                f"the agent {name} is draining: it gets no jobs, and none starts there",
                f"give the cluster another: mesh agents add NAME URL; or bring it back: "
                f"mesh agents add {name} URL",
                trouble=True,
            )
        elif name in standing.unreachable:
            yield Reason(
                f"the agent {name} cannot be reached: {standing.unreachable[name]}",
                "start its server, or mend the way to it; workers and coordinators connect again "
                "by themselves",
                trouble=True,
            )


def _sent(job: JobInfo, standing: Standing) -> Iterator[Reason]:
    if standing.settings.lane(job.lane) is LaneState.PAUSED:
        yield _paused(job.lane)
    if job.agent is not None:
        yield from _stopped([job.agent], standing)
    if job.due_at is not None and job.due_at > standing.now:
        when = f"{_moment(job.due_at)}, in {_span(job.due_at - standing.now)}"
        if job.state is State.RETRYING:
            yield Reason(
                f"attempt {job.attempt} ended with {job.error_type}; the next is at {when}"
            )
        else:
            yield Reason(f"it is due at {when}")


def _paused(lane: str) -> Reason:
    return Reason(f"the lane {lane} is paused", f"mesh lanes resume {lane}", trouble=True)


def _duties(job: JobInfo, standing: Standing) -> Iterator[Reason]:
    if not standing.leases:
        held = job.state in (State.SCHEDULED, State.WAITING)
        means = "nobody hands it to an agent" if held else "this may be old: it may run already"
        yield Reason(f"no coordinator runs, so {means}", "mesh master APP", trouble=True)
    elif job.agent is not None and f"recorder:{job.agent}" not in standing.leases:
        yield Reason(
            f"no coordinator records what happens on the agent {job.agent}, so this may be old",
            "check that a coordinator can reach it: mesh doctor APP, and its log",
            trouble=True,
        )


def _workers(job: JobInfo, standing: Standing) -> Iterator[Reason]:
    running = [beat for beat in standing.workers if beat.state == "running"]
    serving = [w for w in running if any(load.lane == job.lane for load in w.lanes)]
    here = [w for w in serving if job.agent in (None, w.agent)]
    if not here:
        where, option = (
            (f" on the agent {job.agent}", f" --agent {job.agent}") if job.agent else ("", "")
        )
        elsewhere = sorted({w.agent for w in serving})
        but = f"; those of {', '.join(elsewhere)} do not see it" if elsewhere else ""
        yield Reason(
            f"no worker of the lane {job.lane}{where} has been heard of lately{but}",
            f"mesh worker APP --lane {job.lane}{option}",
            trouble=True,
        )
        return
    if job.name not in standing.handlers:
        yield Reason(
            f"no worker ever told of a handler named {job.name}: workers give such a job back some "
            "times, and then it fails",
            "start a worker whose code has it (--import MODULE); which there are: mesh handlers ls",
            trouble=True,
        )
    loads = [load for w in here for load in w.lanes if load.lane == job.lane]
    slots, busy = sum(load.concurrency for load in loads), sum(load.running for load in loads)
    if busy >= slots:
        waiting = standing.backlog.get(job.lane)
        others = f", and {waiting.sent} jobs wait for one on agents" if waiting else ""
        yield Reason(
            f"all {slots} slots of the lane {job.lane} are taken{others}",
            f"what runs: mesh jobs ls --lane {job.lane} --state running; more slots: "
            f"mesh worker APP --lane {job.lane}=N",
        )


def _moment(moment: float) -> str:
    return to_datetime(moment).strftime("%Y-%m-%d %H:%M:%SZ")


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
