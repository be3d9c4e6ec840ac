"""The dashboard in a real browser, on a real cluster: what people see and do."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.acceptance.processes import MESH

from .conftest import PATIENCE, Site, waiting_for

SCREENSHOTS = Path(__file__).parents[2] / "docs" / "screenshots"
SHOOT = "MESH_SCREENSHOTS" in os.environ  # before a fixture clears what is said of a mesh
WIDTHS = {"wide": (1280, 800), "narrow": (360, 740)}
PAGES = {
    "overview": "#/",
    "jobs": "#/jobs",
    "failed": "#/failed",
    "schedules": "#/schedules",
    "lanes": "#/lanes",
    "agents": "#/agents",
    "workers": "#/workers",
    "settings": "#/settings",
    "api": "#/api",
}

expect.set_options(timeout=PATIENCE * 1000)

CONTRAST = (Path(__file__).parent / "contrast.js").read_text("utf-8").partition("\n")[2]


def enqueue(site: Site, name: str, **payload: Any) -> str:
    request = urllib.request.Request(
        f"{site.url}/api/v1/jobs",
        json.dumps({"name": name, "payload": payload}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return str(json.load(answer)["id"])


def get(site: Site, path: str) -> Any:
    with urllib.request.urlopen(f"{site.url}/api/v1/{path}", timeout=PATIENCE) as answer:
        return json.load(answer)


@contextmanager
def looking(
    browser: Browser,
    size: tuple[int, int] = WIDTHS["wide"],
    scheme: Any = "light",
    expects: tuple[str, ...] = (),
) -> Iterator[Page]:
    """A page in a window of its own. Whatever the console or the policy for content complains of
    is an error, but for a server that is away, and what the test ``expects``."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    complaints: list[str] = []

    def said(message: Any) -> None:
        expected = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "401", "409", "ERR_EMPTY")
        if message.type in ("error", "warning") and not any(
            each in message.text for each in (*expected, *expects)
        ):
            complaints.append(message.text)

    page.on("console", said)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield page
        assert complaints == []
    finally:
        context.close()


@pytest.fixture(scope="module")
def cluster(site: Site) -> Site:
    """With a worker, and some history."""
    site.serve()
    site.start("worker", "shop_seen:app")
    waiting_for(lambda: bool(get(site, "workers")))
    for user in range(6):
        enqueue(site, "send_mail", user=user)
    for x in range(12):
        enqueue(site, "add", x=x)
    enqueue(site, "export", rows=300, pause=0.2)
    waiting_for(lambda: get(site, "jobs/count").get("failed", 0) == 6)
    waiting_for(lambda: bool(get(site, "jobs?name=export&state=running")["jobs"]))
    return site


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_is_legible_at_every_width(
    browser: Browser, cluster: Site, width: str, scheme: str
) -> None:
    failed = get(cluster, "jobs?state=failed&limit=1")["jobs"][0]["id"]
    running = get(cluster, "jobs?name=export&limit=1")["jobs"][0]["id"]
    pages = PAGES | {"job": f"#/jobs/{running}", "job-failed": f"#/jobs/{failed}"}
    with looking(browser, WIDTHS[width], scheme) as page:
        page.goto(f"{cluster.url}/")
        for name, address in pages.items():
            page.evaluate("(address) => { location.hash = address; }", address)
            expect(page.locator("main h1")).to_be_visible()
            expect(page.locator("main [aria-busy]")).to_have_count(0)
            page.wait_for_load_state("networkidle") if name != "job" else None
            beyond = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert beyond <= 0, f"{name} is {beyond} px too wide at {width}"
            assert page.evaluate(CONTRAST) == [], name
            if SHOOT and (scheme == "light" or (width == "wide" and name in ("overview", "job"))):
                SCREENSHOTS.mkdir(exist_ok=True)
                look = f"{name}-{width}{'' if scheme == 'light' else '-dark'}"
                page.screenshot(path=SCREENSHOTS / f"{look}.png")


def test_a_running_jobs_bar_moves(browser: Browser, cluster: Site) -> None:
    with looking(browser) as page:
        page.goto(f"{cluster.url}/#/jobs")
        expect(page.locator("tbody a.mono").first).to_be_visible()  # the browser is up
        job_id = enqueue(cluster, "export", rows=40, pause=0.1)
        page.locator(f'a[href="#/jobs/{job_id}"]').click()
        bar = page.get_by_role("progressbar")
        expect(bar).to_be_visible()
        first = int(bar.get_attribute("aria-valuenow") or 0)
        page.wait_for_function(
            "(first) => Number(document.querySelector('[role=progressbar]')"
            "?.getAttribute('aria-valuenow')) > first",
            arg=first,
        )
        expect(page.locator(".job-line .state")).to_have_text("succeeded")
        expect(page.locator(".live")).to_have_text("ended")
        expect(page.locator(".chunks")).to_contain_text("row 39")
        expect(page.get_by_role("log")).to_contain_text("wrote a page")


def test_a_failed_job_is_retried(browser: Browser, cluster: Site) -> None:
    with looking(browser) as page:
        page.goto(f"{cluster.url}/#/failed")
        row = page.locator("tr", has_text="ConnectionError")
        expect(row).to_contain_text("421 try again")
        row.get_by_role("button", name="Retry").click()
        page.get_by_role("dialog").get_by_role("button", name="Yes, retry them").click()
        expect(page.locator(".notice-ok")).to_contain_text("3 jobs are done again")
        page.goto(f"{cluster.url}/#/jobs?state=failed&error=ValueError")
        page.locator("tbody a.mono").first.click()
        expect(page.locator(".trace")).to_contain_text("Traceback")
        before = page.url
        page.get_by_role("button", name="Retry", exact=True).click()
        page.wait_for_url(lambda url: url != before)
        expect(page.locator(".facts")).to_contain_text("Again of")


def test_a_lane_is_paused_and_says_so(browser: Browser, cluster: Site) -> None:
    with looking(browser) as page:
        page.goto(f"{cluster.url}/#/lanes")
        row = page.locator("tr", has_text="mail")
        row.get_by_role("button", name="Pause").click()
        expect(row.locator(".state")).to_have_text("paused")
        # The worker hears of it a moment later.
        (log,) = cluster.folder.glob("*-worker.log")
        waiting_for(lambda: "lane mail is paused" in log.read_text("utf-8"))
        job_id = enqueue(cluster, "send_mail", user=1)
        waiting_for(lambda: bool(get(cluster, "jobs?lane=mail&state=queued")["jobs"]))
        page.goto(f"{cluster.url}/#/jobs/{job_id}")
        expect(page.locator(".notice").first).to_contain_text("paused")
        page.goto(f"{cluster.url}/#/")
        expect(page.locator(".notice").first).to_contain_text("mesh lanes resume mail")
        page.goto(f"{cluster.url}/#/lanes")
        row.get_by_role("button", name="Resume").click()
        expect(row.locator(".state")).to_have_text("active")


def test_the_keys_are_enough(browser: Browser, cluster: Site) -> None:
    with looking(browser) as page:
        page.goto(f"{cluster.url}/")
        expect(page.locator("h1")).to_have_text("Overview")
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        page.keyboard.press("g")
        page.keyboard.press("j")
        expect(page.locator("h1")).to_have_text("Jobs")
        page.keyboard.press("/")
        expect(page.locator("#search")).to_be_focused()
        page.keyboard.type("send_mail")
        page.keyboard.press("Enter")
        page.wait_for_url("**/#/jobs?name=send_mail")
        expect(page.locator("tbody tr").first).to_contain_text("send_mail")
        page.locator("#search").blur()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("Overview")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_it_goes_on_where_it_was_when_the_server_comes_back(
    browser: Browser, site: Site, cluster: Site
) -> None:
    """Each event is shown once, in order, whatever was missed meanwhile."""
    process = site.servers[-1]
    job_id = enqueue(site, "export", rows=120, pause=0.05)
    with looking(browser) as page:
        page.goto(f"{site.url}/#/jobs/{job_id}")
        expect(page.locator(".chunks")).to_contain_text("row 5\n")
        page.goto(f"{site.url}/#/jobs/{job_id}")
        process.terminate()
        process.wait(PATIENCE)
        expect(page.locator(".live")).to_have_text("reconnecting…")
        expect(page.locator(".banner")).to_contain_text("cannot be reached")
        site.serve()
        expect(page.locator(".job-line .state")).to_have_text("succeeded")
        expect(page.locator(".banner")).to_have_count(0)
        expect(page.locator(".live")).to_have_text("ended")
        shown = page.locator(".chunks").text_content() or ""
        assert shown == "".join(f"row {row}\n" for row in range(120))


def test_people_sign_in_and_out(browser: Browser, site: Site, cluster: Site) -> None:
    """The last: from now on nobody gets in otherwise."""
    password = "correct horse battery"

    add = [MESH, "users", "add", "ann", "--scope", "operate", "--password-stdin"]
    with looking(browser) as page:
        page.goto(f"{site.url}/#/lanes")
        expect(page.locator("h1")).to_have_text("Lanes")
        command = [*add, "--master", site.database]
        subprocess.run(command, input=f"{password}\n", text=True, check=True)
        # From then on the page that is open shows nothing either.
        expect(page.locator("h1")).to_have_text("Sign in")
        name = page.get_by_label("User name")
        expect(name).to_be_visible()
        name.fill("ann")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("user name or the password is wrong")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("h1")).to_have_text("Lanes")
        row = page.locator("tr", has_text="reports")
        row.get_by_role("button", name="Pause").click()
        expect(row.locator(".state")).to_have_text("paused")
        page.reload()
        expect(page.locator("h1")).to_have_text("Lanes")
        page.get_by_role("button", name="Sign out ann").click()
        expect(page.get_by_label("User name")).to_be_visible()
