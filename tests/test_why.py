"""Why a job does not run, and what ``mesh jobs`` and ``mesh doctor`` say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.job import TERMINAL, State
from mesh.ports import Backlog, JobInfo, LimitInfo, Wait
from mesh.settings import AgentState, AgentStatus, ClusterSettings, LaneState, Mode
from mesh.wire import Heartbeat, LaneLoad
from mesh_master.why import Reason, Standing, why

NOW = 1_000_000.0
ID, PARENT = "01a217b2-ac72-7ede-bf8d-d1b51d1ee80c", "01a217b2-ac72-7ede-bf8d-d1b51d1ee80d"

JOB = JobInfo(ID, "send", "mail", 3, State.QUEUED, 1, NOW - 9, b"{}", agent="a-1")
HELD = replace(JOB, state=State.SCHEDULED, agent=None, due_at=NOW - 9)
WAITING = replace(HELD, state=State.WAITING, due_at=None)


def worker(name: str = "w-1", agent: str = "a-1", lane: str = "mail", busy: int = 0) -> Heartbeat:
    load = LaneLoad(lane, 2, busy, 0)
    return Heartbeat(name, NOW - 1, agent, "h", 7, "1", NOW - 99, "running", [load])


WELL = Standing(
    NOW,
    agents={"a-1": None},
    workers=[worker()],
    leases={"control": "c-1", "recorder:a-1": "c-1"},
    handlers={"send"},
)


def settings(**given: Any) -> ClusterSettings:
    return ClusterSettings(**given)


def waits(**given: Any) -> Mapping[str, Wait]:
    return {ID: Wait(**given)}


@pytest.mark.parametrize(
    ("job", "changes", "text", "advice"),
    [
        (JOB, {}, "nothing: a worker is about to start it", ""),
        (HELD, {}, "nothing: a coordinator is about to hand it to an agent", ""),
        (JOB, {"settings": settings(mode=Mode.PASSIVE)}, "passive", "mesh cluster mode active"),
        (HELD, {"settings": settings(mode=Mode.ARCHIVE)}, "archive", "mesh cluster mode active"),
        (
            JOB,
            {"settings": settings(lanes={"mail": LaneState.PAUSED})},
            "the lane mail is paused",
            "mesh lanes resume mail",
        ),
        (
            HELD,
            {"settings": settings(lanes={"mail": LaneState.DRAINING})},
            "its new jobs stay on the master",
            "mesh lanes resume mail",
        ),
        (
            JOB,
            {"settings": settings(agents={"a-1": AgentStatus(AgentState.DRAINING)})},
            "the agent a-1 is draining",
            "mesh agents add a-1 URL",
        ),
        (JOB, {"unreachable": {"a-1": "refused"}}, "a-1 cannot be reached: refused", "server"),
        (HELD, {"unreachable": {"a-1": "refused"}}, "a-1 cannot be reached: refused", "server"),
        (
            HELD,
            {"agents": {"a-1": ["other"]}},
            "the lane mail is served by no agent",
            "the lane mail",
        ),
        (
            HELD,
            {"waits": waits(agent="gone")},
            "gone alone, which is not in the",
            "agents add gone",
        ),
        (
            JOB,
            {"workers": []},
            "no worker of the lane mail on the agent a-1",
            "--lane mail --agent",
        ),
        (JOB, {"workers": [worker(lane="other")]}, "no worker of the lane mail", "--lane mail"),
        (JOB, {"workers": [worker(agent="a-2")]}, "those of a-2 do not see it", "--agent a-1"),
        (
            JOB,
            {"workers": [msgspec.structs.replace(worker(), state="draining")]},
            "no worker of the lane mail",
            "mesh worker",
        ),
        (JOB, {"handlers": {"other"}}, "ever told of a handler named send", "mesh handlers ls"),
        (
            JOB,
            {"workers": [worker(busy=2)], "backlog": {"mail": Backlog(0, 40)}},
            "all 2 slots of the lane mail are taken, and 40 jobs wait",
            "--state running",
        ),
        (JOB, {"leases": {}}, "no coordinator runs, so this may be old", "mesh master APP"),
        (HELD, {"leases": {}}, "so nobody hands it to an agent", "mesh master APP"),
        (JOB, {"leases": {"control": "c-1"}}, "records what happens on the agent a-1", "doctor"),
        (replace(HELD, due_at=NOW + 7200), {"workers": []}, "15:46:40Z, in 2 h", ""),
        (
            replace(
                JOB, state=State.RETRYING, error_type="OSError", due_at=NOW + 90, started_at=1.0
            ),
            {},
            "attempt 1 ended with OSError; the next is at 1970-01-12 13:48:10Z, in 90 s",
            "",
        ),
        (replace(JOB, expires_at=NOW - 1), {}, "it will not, and ends expired", ""),
        (
            HELD,
            {"waits": waits(limits=[LimitInfo("job:send:concurrency:u:1", 2, 0.0, 2)])},
            "2 may be under way at once, and 2 are",
            "mesh jobs ls --name send --state running",
        ),
        (
            HELD,
            {"waits": waits(limits=[LimitInfo("lane:mail:concurrency", 2, 0.0, 2)])},
            "of the limit lane:mail:concurrency",
            "mesh jobs ls --lane mail --state running",
        ),
        (
            HELD,
            {"waits": waits(limits=[LimitInfo("job:send:rate", 0, 0.1, 0)])},
            "lets one in 10 s begin",
            "",
        ),
        (
            WAITING,
            {
                "waits": waits(parents={PARENT: "success"}),
                "parents": {PARENT: replace(JOB, id=PARENT, name="load", state=State.RUNNING)},
            },
            f"the success of job {PARENT} (load), which is running",
            f"mesh jobs show {PARENT}",
        ),
        (
            WAITING,
            {"waits": waits(parents={PARENT: "finished"})},
            f"the end of job {PARENT}, of which the master has not heard",
            f"mesh jobs cancel {ID}",
        ),
        (WAITING, {}, "what it waited for has ended", ""),
        (
            replace(JOB, state=State.RUNNING, worker="w-9"),
            {},
            "its worker w-9 has not been heard of lately",
            "mesh workers --all",
        ),
    ],
)
def test_each_cause_is_told_with_what_to_do(
    job: JobInfo, changes: dict[str, Any], text: str, advice: str
) -> None:
    (reason,) = why(job, replace(WELL, **changes))
    assert text in reason.text
    assert advice in reason.advice if advice else not reason.advice


def test_what_runs_or_has_ended_waits_for_nothing() -> None:
    assert why(replace(JOB, state=State.RUNNING, worker="w-1"), WELL) == []
    for state in TERMINAL:
        assert why(replace(JOB, state=state), Standing(NOW)) == []


def test_all_that_is_in_the_way_is_told() -> None:
    standing = Standing(NOW, settings(mode=Mode.PASSIVE, lanes={"mail": LaneState.PAUSED}))
    texts = " | ".join(reason.text for reason in why(JOB, standing))
    for part in ("passive", "paused", "no coordinator", "no worker"):
        assert part in texts


@given(
    st.sampled_from(sorted(set(State) - TERMINAL - {State.RUNNING})),
    st.booleans(),
    st.sampled_from(Mode),
    st.sampled_from(LaneState),
    st.sampled_from([None, NOW - 5, NOW + 5]),
    st.lists(st.sampled_from([worker(), worker(busy=2), worker(agent="a-2")])),
)
def test_there_is_always_an_answer(
    state: State,
    coordinated: bool,
    mode: Mode,
    lane: LaneState,
    due_at: float | None,
    workers: list[Heartbeat],
) -> None:
    standing = replace(
        WELL,
        settings=settings(mode=mode, lanes={"mail": lane}),
        leases=WELL.leases if coordinated else {},
        workers=workers,
    )
    reasons = why(replace(JOB, state=state, due_at=due_at), standing)
    assert reasons
    assert all(isinstance(reason, Reason) and reason.text for reason in reasons)
    assert all(reason.advice for reason in reasons if reason.trouble)
    stopped = mode is not Mode.ACTIVE or lane is LaneState.PAUSED or not coordinated
    if stopped and state is not State.WAITING:
        assert any(reason.trouble for reason in reasons)
