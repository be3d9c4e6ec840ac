"""The cluster over HTTP: lanes, agents, workers, schedules, settings, handlers."""

from __future__ import annotations

import asyncio

from .conftest import PATIENCE, Served


async def test_the_overview_says_what_needs_attention(served: Served) -> None:
    seen = await served.get("overview")
    assert (seen["mode"], seen["attention"]) == ("active", [])
    await served.post("lanes/slow/pause")
    (attention,) = (await served.get("overview"))["attention"]
    assert "mesh lanes resume slow" in attention["text"]


async def test_a_lane_is_paused_purged_and_resumed(served: Served) -> None:
    await served.post("lanes/slow/pause")
    delayed = {"name": "count", "payload": {"to": 1}, "options": {"delay": 3600}}
    await served.post("jobs", delayed, 202)
    lane = next(x for x in (await served.get("lanes"))["lanes"] if x["lane"] == "slow")
    assert (lane["state"], lane["held"], lane["queued"]) == ("paused", 1, 1)
    assert await served.post("lanes/slow/purge") == {"cancelled": 1, "left": 0}
    lanes = (await served.post("lanes/slow/resume"))["lanes"]
    assert next(x for x in lanes if x["lane"] == "slow")["state"] == "active"
    assert (await served.post("lanes/slow/explode", None, 400))["status"] == 400


async def test_agents(served: Served) -> None:
    (agent,) = await served.get("agents")
    assert (agent["name"], agent["state"], agent["away"]) == ("local", "active", "")
    assert (await served.ask("DELETE", "agents/local", 422))["detail"].startswith(
        "agent 'local' is not drained"
    )
    (drained,) = await served.post("agents/local/drain")
    assert drained["state"] == "draining"
    (back,) = await served.post("agents/local/undrain")
    assert back["state"] == "active"
    problem = await served.post("agents", {"name": "x", "url": "gopher://x"}, 422)
    assert "gopher" in problem["detail"]


async def test_workers_and_handlers(served: Served) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await served.get("handlers"):
            await asyncio.sleep(0.02)
        while not await served.get("workers"):
            await asyncio.sleep(0.02)
    (worker,) = await served.get("workers")
    assert worker["state"] == "running"
    names = {handler["name"]: handler for handler in await served.get("handlers")}
    assert names["upkeep"]["kind"] == "system"
    assert names["add"]["definition"]["arguments"]["required"] == ["x"]
    assert (await served.get("handlers/add"))["lane"] == "default"
    assert "did you mean 'add'" in (await served.get("handlers/ad", 404))["detail"]


async def test_schedules(served: Served) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await served.get("schedules"):
            await asyncio.sleep(0.02)
    schedule = await served.get("schedules/nightly")
    assert schedule["explain"].startswith("At 02:00")
    assert len(schedule["next"]) == 5
    assert (await served.post("schedules/nightly/pause"))["state"] == "paused"
    assert (await served.post("schedules/nightly/resume"))["state"] == "active"
    made = await served.post("schedules/nightly/run", None, 202)
    assert (await served.ended(made["id"]))["schedule"] == "nightly"
    body = {"name": "hourly", "handler": "add", "expression": "@hourly", "payload": {"x": 1}}
    assert (await served.post("schedules", body, 201))["source"] == "api"
    assert (await served.post("schedules", body, 409))["type"] == "urn:mesh:schedule-exists"
    await served.ask("DELETE", "schedules/hourly", 204)
    explained = await served.post("schedules/explain", {"expression": "every monday at 9:00"})
    assert explained["next"][0]["at"].endswith("T09:00:00Z")
    assert (await served.post("schedules/explain", {"expression": "sometimes"}, 422))["status"]


async def test_settings(served: Served) -> None:
    before = await served.get("settings")
    assert before["settings"]["timeout"] == {"value": None, "is_default": True}
    after = await served.ask("PATCH", "settings", json={"timeout": 30, "mode": "passive"})
    assert (after["mode"], after["settings"]["timeout"]["value"]) == ("passive", 30.0)
    problem = await served.ask("PATCH", "settings", 422, json={"timeot": 30})
    assert "did you mean 'timeout'" in problem["detail"]
    again = await served.ask("PATCH", "settings", json={"timeout": None, "mode": "active"})
    assert again["settings"]["timeout"]["is_default"] is True


async def test_what_happened_and_what_failed_alike(served: Served) -> None:
    for why in ("user 1 has no address", "user 22 has no address"):
        await served.ended(await served.enqueue("fail", why=why))
    await served.ended(await served.enqueue("add", x=1))
    (group,) = (await served.get("failures"))["failures"]
    assert (group["name"], group["error_type"], group["count"]) == ("fail", "ValueError", 2)
    alike = await served.get("jobs", fingerprint=group["fingerprint"])
    assert {job["id"] for job in alike["jobs"]} == set(group["job_ids"])
    where = {"where": {"fingerprint": group["fingerprint"], "state": ["failed"]}, "dry_run": True}
    assert (await served.post("jobs/retry", where))["matched"] == 2
    found = await served.get("series", since="5m", by="name")
    by_name = dict.fromkeys(("add", "fail"), 0)
    for span in found["buckets"]:
        by_name[span["key"]] += span["succeeded"] + 10 * span["failed"]
    assert by_name == {"add": 1, "fail": 20}
    whole = (await served.get("series", since="5m"))["buckets"]
    assert sum(span["failed"] for span in whole) == 2
    assert len(whole[0]["histogram"]) == len(found["bounds"]) + 1
    for wrong in ({"since": "1h", "until": "2h"}, {"since": "soon"}, {"since": "9000d"}):
        assert (await served.get("series", 422, **wrong))["status"] == 422


async def test_why_a_job_does_not_run(served: Served) -> None:
    await served.post("lanes/slow/pause")
    job_id = await served.enqueue("count", to=1)
    await served.known(job_id)
    (reason,) = (await served.get(f"jobs/{job_id}"))["why"]
    assert "paused" in reason["text"]
    assert "resume" in reason["advice"]


async def test_a_worker_is_drained_and_used_again(served: Served) -> None:
    async with asyncio.timeout(PATIENCE):
        while not (workers := await served.get("workers")):
            await asyncio.sleep(0.02)
        worker = workers[0]["worker"]
        await served.post(f"workers/{worker}/drain")
        while (await served.get("workers"))[0]["state"] != "draining":
            await asyncio.sleep(0.02)
        job_id = await served.enqueue("add", x=1)
        await served.known(job_id)
        assert (await served.get(f"jobs/{job_id}"))["state"] == "queued"
        await served.post(f"workers/{worker}/resume")
        assert (await served.ended(job_id))["state"] == "succeeded"
        while (await served.get("workers"))[0]["state"] != "running":
            await asyncio.sleep(0.02)
    problem = await served.post("workers/nobody/drain", None, 422)
    assert "no worker 'nobody'" in problem["detail"]
