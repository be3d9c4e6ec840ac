"""Jobs over HTTP: found, followed, enqueued, cancelled, done again, forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mesh import Mesh
from mesh.job import made_job_id, new_job_id

from .conftest import PATIENCE, Served


async def test_a_job_is_enqueued_and_seen_to_its_end(served: Served) -> None:
    answer = await served.client.post("jobs", json={"name": "add", "payload": {"x": 2, "y": 3}})
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    assert answer.headers["location"] == f"/api/v1/jobs/{job_id}"
    job = await served.ended(job_id)
    assert (job["state"], job["result"], job["payload"]) == ("succeeded", 5, {"x": 2, "y": 3})
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["succeeded"]
    assert job["enqueued_at"].endswith("Z")


async def test_jobs_are_listed_page_by_page(served: Served) -> None:
    made = [await served.enqueue("add", x=number) for number in range(5)]
    for job_id in made:
        await served.ended(job_id)
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = await served.get("jobs", name="add", limit=2, **cursor)
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert sorted(seen) == sorted(made)
    assert await served.get("jobs/count", name="add") == {"succeeded": 5}
    assert (await served.get("jobs", state="failed"))["jobs"] == []


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ({"state": "odd"}, 400, "odd"),
        ({"limit": 0}, 400, "limit"),
        ({"limit": 10_000}, 400, "limit"),
        ({"cursor": "x"}, 422, "cursor"),
        ({"since": "soon"}, 422, "soon"),
        ({"tag": "no-value"}, 422, "no-value"),
        ({"order": "random"}, 422, "random"),
    ],
)
async def test_what_no_job_can_meet_is_refused(
    served: Served, query: dict[str, Any], status: int, says: str
) -> None:
    answer = await served.client.get("jobs", params=query)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert says in answer.text


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "ad"}, 404, "did you mean 'add'"),
        ({"name": "add", "payload": {"x": "two"}}, 422, "Expected `int`"),
        ({"name": "add"}, 422, "x"),
        ({"name": "add", "payload": {"x": 1}, "options": {"priority": "top"}}, 400, "priority"),
        ({"name": "add", "payload": {"x": 1}, "options": {"dely": 1}}, 400, "dely"),
        ({"name": "add", "payload": {"x": 1}, "options": {"agent": "locl"}}, 422, "local"),
        ({}, 400, "name"),
        ([], 400, ""),
    ],
)
async def test_a_job_that_could_not_run_is_not_enqueued(
    served: Served, body: Any, status: int, says: str
) -> None:
    answer = await served.client.post("jobs", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.text
    assert (await served.get("jobs"))["jobs"] == []


async def test_what_is_too_large_is_refused(served: Served) -> None:
    payload = {"name": "x" * 200_000, "password": ""}
    answer = await served.client.post("jobs", json={"name": "sign_up", "payload": payload})
    assert answer.status_code == 413
    answer = await served.client.post("jobs", content=b" " * 5_000_000)
    assert answer.status_code == 413


async def test_a_key_gives_the_same_job_again(served: Served) -> None:
    body = {"name": "add", "payload": {"x": 1}, "options": {"key": "k", "delay": 3600}}
    first = await served.post("jobs", body, 202)
    again = await served.post("jobs", body, 202)
    assert again == {"id": first["id"], "existing": True}


async def test_a_job_is_cancelled(served: Served) -> None:
    body = {"name": "add", "payload": {"x": 1}, "options": {"delay": 3600}}
    job_id = (await served.post("jobs", body, 202))["id"]
    assert await served.post(f"jobs/{job_id}/cancel", {"reason": "no use"}, 202) == {
        "id": job_id,
        "state": "cancelled",
    }
    job = await served.get(f"jobs/{job_id}")
    assert job["error"]["message"] == "no use"


async def test_a_failed_job_is_done_again_perhaps_otherwise(served: Served) -> None:
    job = await served.ended(await served.enqueue("fail", why="bad luck"))
    assert (job["state"], job["error"]["message"]) == ("failed", "bad luck")
    assert "Traceback" in job["error"]["traceback"]
    again = await served.post(f"jobs/{job['id']}/retry", {"payload": {"why": "other"}}, 202)
    after = await served.ended(again["id"])
    assert (after["retry_of"], after["error"]["message"]) == (job["id"], "other")
    problem = await served.post(f"jobs/{job['id']}/retry", None, 409)
    assert (problem["type"], problem["job_id"]) == ("urn:mesh:job-retried", job["id"])


async def test_a_job_is_forgotten(served: Served) -> None:
    job = await served.ended(await served.enqueue("add", x=1))
    assert await served.ask("DELETE", f"jobs/{job['id']}", 204) is None
    problem = await served.get(f"jobs/{job['id']}", 404)
    assert problem["type"] == "urn:mesh:job-not-found"
    assert (await served.get("jobs/nonsense", 404))["status"] == 404


async def test_many_at_once_and_how_many_it_would_be(served: Served) -> None:
    ids = [await served.enqueue("fail") for _ in range(3)]
    for job_id in ids:
        await served.ended(job_id)
    where = {"where": {"state": ["failed"], "name": "fail"}}
    assert await served.post("jobs/retry", where | {"dry_run": True}) == {"matched": 3, "done": 0}
    assert await served.post("jobs/retry", where) == {"matched": 3, "done": 3}
    for job in (await served.get("jobs", name="fail", retried=False))["jobs"]:
        await served.ended(job["id"])
    assert await served.post("jobs/remove", where) == {"matched": 6, "done": 6}
    problem = await served.post("jobs/remove", {"where": {}}, 422)
    assert "which jobs" in problem["detail"]
    delayed = {"name": "add", "payload": {"x": 1}, "options": {"delay": 3600}}
    await served.post("jobs", delayed, 202)
    assert await served.post("jobs/cancel", {"where": {"name": "add"}}) == {"matched": 1, "done": 1}


async def test_secrets_are_hidden_and_survive_an_edit(served: Served) -> None:
    job_id = await served.enqueue("sign_up", name="ann", password="s3cret")
    job = await served.ended(job_id)
    assert job["payload"] == {"name": "ann", "password": "[redacted]"}
    for path in (f"jobs/{job_id}", "jobs", f"jobs/{job_id}/events", "audit"):
        assert "s3cret" not in (await served.client.get(path)).text
    edited = job["payload"] | {"name": "bob"}
    again = await served.post(f"jobs/{job_id}/retry", {"payload": edited}, 202)
    assert (await served.ended(again["id"]))["payload"]["name"] == "bob"
    found = (await (await served.app.master()).get_jobs([again["id"]]))[again["id"]]
    assert found.payload == b'{"name":"bob","password":"s3cret"}'


async def test_events_as_pages(served: Served) -> None:
    job_id = await served.enqueue("count", to=20)
    await served.ended(job_id)
    seen: list[dict[str, Any]] = []
    after = -1
    while page := (await served.get(f"jobs/{job_id}/events", after=after, limit=7))["events"]:
        seen += page
        after = page[-1]["seq"]
    assert [event["seq"] for event in seen] == sorted({event["seq"] for event in seen})
    assert [e["data"]["event"] for e in seen if e["kind"] == "lifecycle"] == [
        "enqueued",
        "started",
        "succeeded",
    ]
    assert next(e["data"] for e in seen if e["kind"] == "result") == "counted"


async def test_events_as_a_stream_that_goes_on_where_it_was_left(served: Served) -> None:
    job_id = await served.enqueue("count", to=20)
    await served.ended(job_id)
    asking = {"accept": "text/event-stream"}
    whole = await served.client.get(f"jobs/{job_id}/events", headers=asking)
    assert whole.headers["x-accel-buffering"] == "no"
    parts = whole.text.strip().split("\n\n")
    assert parts[-1].startswith("event: end")
    ids = [line[4:] for line in whole.text.splitlines() if line.startswith("id: ")]
    rest = await served.client.get(
        f"jobs/{job_id}/events", headers=asking | {"last-event-id": ids[4]}
    )
    assert [line[4:] for line in rest.text.splitlines() if line.startswith("id: ")] == ids[5:]
    wrong = await served.client.get(
        f"jobs/{job_id}/events", headers=asking | {"last-event-id": "x"}
    )
    assert wrong.status_code == 422


async def test_a_stream_waits_for_a_job_that_the_master_has_not_heard_of(served: Served) -> None:
    """Location is followed at once; but an old id that nobody knows is none."""
    job_id = new_job_id()
    asking = {"accept": "text/event-stream"}
    following = asyncio.create_task(served.client.get(f"jobs/{job_id}/events", headers=asking))
    body = {"name": "add", "payload": {"x": 1}, "options": {"id": job_id}}
    await served.post("jobs", body, 202)
    assert "event: end" in (await following).text
    old = made_job_id(served.app.now() - 3600, "0" * 32)
    answer = await served.client.get(f"jobs/{old}/events", headers=asking)
    assert answer.status_code == 404


async def test_a_filter_that_is_none_is_the_askers_mistake(served: Served) -> None:
    wrong: list[Any] = [[], None, "all"]
    for where in wrong:
        problem = await served.post("jobs/retry", {"where": where}, 400)
        assert problem["errors"][0]["field"] == "where"


async def test_what_there_is_not_is_a_problem_too(served: Served) -> None:
    for path in ("nothing", "jobs/nothing/at/all"):
        answer = await served.client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


async def test_the_document_says_which_bodies_may_be_left_out(served: Served) -> None:
    paths = (await served.get("openapi.json"))["paths"]
    assert paths["/api/v1/jobs"]["post"]["requestBody"]["required"] is True
    for path in ("jobs/{job_id}/cancel", "jobs/{job_id}/retry", "lanes/{lane}/purge"):
        assert paths[f"/api/v1/{path}"]["post"]["requestBody"]["required"] is False


async def test_a_handler_whose_code_is_elsewhere(served: Served) -> None:
    """By what its worker told of it."""
    app = Mesh(served.app.config.master)
    async with app:
        other = Served(app)
        async with other.client:
            async with asyncio.timeout(PATIENCE):
                while len(await other.get("handlers")) < 5:
                    await asyncio.sleep(0.02)
            job_id = await other.enqueue("add", x=2, y=3)
            assert (await served.ended(job_id))["result"] == 5
            body: dict[str, Any] = {"name": "add", "payload": {"x": "two", "z": 1}}
            problem = await other.post("jobs", body, 422)
            assert "$.x" in problem["detail"]
            assert "'z' was unexpected" in problem["detail"]
            later = {"name": "add", "payload": {"x": 1}, "options": {"key": "k", "delay": 3600}}
            first = await other.post("jobs", later, 202)
            assert await other.post("jobs", later, 202) == {"id": first["id"], "existing": True}
            assert "did you mean 'add'" in (await other.post("jobs", {"name": "ad"}, 404))["detail"]
