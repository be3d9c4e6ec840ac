"""Several applications on one cluster, and several clusters from one process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from mesh import Context, Job, JobHandle, State, chain
from mesh.roles import RoleOptions, make_role

from .cluster_rig import PATIENCE, Rig
from .conftest import MakeRig


class Report(Job[str], lane="reports", concurrency=1):
    day: str


class Shop:
    """An app whose names others have too."""

    def __init__(self, rig: Rig, who: str, **settings: Any) -> None:
        self.app = app = rig.app(**settings)

        @app.job(lane="mail", concurrency=2)
        async def send(n: int) -> str:
            return f"{who} {n}"

        @app.job
        async def describe(ctx: Context) -> str:
            child = await ctx.enqueue(send, 9)
            return f"{ctx.name} {ctx.lane} {ctx.key} {await child.result(timeout=PATIENCE)}"

        @app.job
        async def extend(text: str) -> str:
            return f"{text}!"

        @app.handler
        async def report(request: Report) -> str:
            return f"{who} {request.day}"

        self.send, self.describe, self.extend = send, describe, extend

    async def use(self) -> list[str]:
        """What jobs of all kinds result in."""
        flow = await chain(self.send.draft(4), self.extend.draft()).enqueue()
        jobs: list[JobHandle[Any]] = [
            await self.send.enqueue(1),
            *await self.extend.options(lane="mail").enqueue_many([("2",), ("3",)]),
            await self.app.enqueue(Report("monday")),
            await self.describe.options(key="same").enqueue(),
        ]
        results = [await job.result(timeout=PATIENCE) for job in jobs]
        return [*results, await flow.result(timeout=PATIENCE)]


def results(who: str, prefix: str) -> list[str]:
    described = f"{prefix}describe {prefix}default {prefix}same {who} 9"
    return [f"{who} 1", "2!", "3!", f"{who} monday", described, f"{who} 4!"]


async def test_two_apps_share_a_cluster_and_nothing_else(rig: Rig) -> None:
    one, two = Shop(rig, "one", prefix="one-"), Shop(rig, "two", prefix="two-")
    assert one.app.lanes == ["one-default", "one-mail", "one-reports"]
    worker = make_role("worker", two.app, RoleOptions())
    async with rig.running(one.app), worker:
        assert list(await asyncio.gather(one.use(), two.use())) == [
            results("one", "one-"),
            results("two", "two-"),
        ]
        mine, others = await one.app.find(key="same"), await two.app.find(key="same")
        # The keys are free again, as both jobs have ended: what stood for them was each app's own.
        assert (mine, others) == (None, None)
        assert {job.name async for job in one.app.jobs()} == {
            *("one-send", "one-describe", "one-extend", "one-Report")
        }
        names = {job.name async for job in two.app.jobs(name="s*", lane="mail")}
        assert names == {"two-send"}
        (keyed,) = [job async for job in one.app.jobs(key="same")]
        assert keyed.name == "one-describe"
        await two.app.close()
    # Who has no prefix sees the whole cluster.
    async with rig.app() as everyone:
        seen = {job.name.partition("-")[0] async for job in everyone.jobs()}
        assert seen == {"one", "two"}


async def test_keys_schedules_and_bulk_commands_of_one_app_leave_the_others_alone(
    rig: Rig,
) -> None:
    async with AsyncExitStack() as stack:
        shops = [Shop(rig, who, prefix=f"{who}_") for who in ("one", "two")]
        one, two = [await stack.enter_async_context(shop.app) for shop in shops]
        jobs = [await s.send.options(key="welcome", delay=3600).enqueue(1) for s in shops]
        assert [job.existing for job in jobs] == [False, False]
        assert (await shops[0].send.options(key="welcome").enqueue(1)).id == jobs[0].id
        found = [await app.find(key="welcome") for app in (one, two)]
        assert [job.id for job in found if job is not None] == [job.id for job in jobs]

        for app in (one, two):
            schedule = await app.schedules.create("send", "every day", 1, name="nightly")
            assert (schedule.app, schedule.definition.lane) == (
                app.prefix.text,
                f"{app.prefix.text}mail",
            )
        assert [s.name for s in await one.schedules.list()] == ["one_nightly", "two_nightly"]
        await one.schedules.pause("nightly")
        assert (await two.schedules.get("nightly")).state == "active"
        assert (await one.schedules.get("nightly")).state == "paused"
        run = await two.schedules.run_now("nightly")
        assert run.name == "two_send"

        assert await one.count() == {State.SCHEDULED: 1}
        assert await one.cancel(state="scheduled") == 1
        seen = (await two.get_job(jobs[1].id)).seen
        assert seen is not None
        assert seen.state is State.SCHEDULED
        assert await two.count(schedule="nightly") == {State.SCHEDULED: 1}
        assert await two.remove(state="cancelled") == 0
        assert await one.remove(state="cancelled") == 1


async def test_two_clusters_from_one_process(make_rig: MakeRig) -> None:
    rigs = make_rig(), make_rig()
    one, two = Shop(rigs[0], "one"), Shop(rigs[1], "two")
    async with rigs[0].running(one.app), rigs[1].running(two.app):
        assert list(await asyncio.gather(one.use(), two.use())) == [
            results("one", ""),
            results("two", ""),
        ]
        mine = {job.id async for job in one.app.jobs()}
        others = {job.id async for job in two.app.jobs()}
        assert len(mine) == len(others) == 8
        assert not mine & others
