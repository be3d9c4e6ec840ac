"""What people see and have typed stays, whatever happens between the browser and the cluster."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from playwright.sync_api import Browser, Page, expect

from mesh.testing.servers import free_port
from tests.acceptance.processes import MESH

from .conftest import PATIENCE, Site, waiting_for
from .test_dashboard import enqueue, get, looking

OPS = """
import uvicorn
from litestar import Litestar, asgi

from mesh_master.api import create_app
from shop_seen import app

mounted = asgi("/ops", is_mount=True, copy_scope=True)(create_app(app))
uvicorn.run(Litestar([mounted]), port={port}, log_level="warning")
"""


@contextmanager
def proxy_alone(port: int) -> Iterator[list[str]]:
    """Answers there as a proxy does whose server is being restarted; gives the paths that were
    asked for."""
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Proxy) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield asked
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def cluster(site: Site) -> Site:
    """With a worker."""
    site.serve()
    site.start("worker", "shop_seen:app")
    waiting_for(lambda: bool(get(site, "workers")))
    return site


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return True
    except OSError:
        return False


def ended(site: Site, job_id: str, state: str) -> None:
    waiting_for(
        lambda: job_id in [job["id"] for job in get(site, f"jobs?state={state}")["jobs"]],
    )


def test_words_and_addresses_lead_where_they_say(browser: Browser, cluster: Site) -> None:
    ended(cluster, enqueue(cluster, "add", x=1), "succeeded")
    ended(cluster, enqueue(cluster, "send_mail", user=1), "failed")
    with looking(browser, expects=("404",)) as page:
        page.goto(f"{cluster.url}/#/lanes")
        expect(page.locator("h1")).to_have_text("Lanes")
        page.keyboard.press("/")
        search = page.locator("#search")
        expect(search).to_be_focused()
        page.keyboard.type("send_mail lane:mail")
        page.keyboard.press("Enter")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.goto(f"{cluster.url}/#/jobs?name=add")
        expect(search).to_have_value("name:add")
        expect(page.locator("tbody tr").first).to_contain_text("add")
        page.goto(f"{cluster.url}/#/jobs?key=two+words")
        expect(search).to_have_value('key:"two words"')
        expect(page.locator(".empty")).to_contain_text("No job fits")
        search.press("Enter")
        page.wait_for_url("**/#/jobs?key=two+words")
        page.goto(f"{cluster.url}/#/jobs/%E0%A4%A")
        expect(page.locator("main h1")).to_have_text("Job")
        expect(page.get_by_role("alert")).to_be_visible()


def test_a_stream_goes_on_after_a_proxy_has_refused_it(browser: Browser, cluster: Site) -> None:
    process = cluster.servers[-1]
    job_id = enqueue(cluster, "export", rows=100, pause=0.05)
    with looking(browser, expects=("503",)) as page:
        page.goto(f"{cluster.url}/#/jobs/{job_id}")
        expect(page.locator(".chunks")).to_contain_text("row 5\n")
        process.terminate()
        process.wait(PATIENCE)
        with proxy_alone(cluster.port) as asked:
            waiting_for(lambda: any("/events" in path for path in asked))
            expect(page.locator(".live")).to_have_text("reconnecting…")
        cluster.serve()
        expect(page.locator(".live")).to_have_text("ended")
        expect(page.locator(".chunks")).to_have_text(
            "".join(f"row {row}\n" for row in range(100)), use_inner_text=False
        )


def test_it_works_wherever_it_is_mounted(browser: Browser, cluster: Site) -> None:
    port = free_port()
    (cluster.folder / "ops.py").write_text(OPS.format(port=port), "utf-8")
    cluster.start("ops.py")
    url = f"http://127.0.0.1:{port}/ops"
    waiting_for(lambda: answers(f"{url}/health/live"))
    with looking(browser) as page:
        page.goto(url)
        expect(page.locator("h1")).to_have_text("Overview")
        expect(page.locator(".card", has_text="Lanes")).to_contain_text("reports")
        page.get_by_role("link", name="Schedules").click()
        row = page.locator("tr", has_text="nightly")
        row.get_by_role("button", name="Run now").click()
        expect(page.locator(".job-line .state")).to_have_text("succeeded")
        expect(page.locator(".live")).to_have_text("ended")


def test_what_was_typed_outlives_escape_and_the_session(browser: Browser, cluster: Site) -> None:
    """The last: from now on nobody gets in otherwise."""
    job_id = enqueue(cluster, "add", x=1)
    ended(cluster, job_id, "succeeded")
    password = "correct horse battery"
    add = [MESH, "users", "add", "ann", "--scope", "admin", "--password-stdin"]
    add += ["--master", cluster.database]
    subprocess.run(add, input=f"{password}\n", text=True, check=True)

    def sign_in(page: Page) -> None:
        page.get_by_label("User name").fill("ann")
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()

    with looking(browser) as page:
        page.goto(f"{cluster.url}/#/jobs/{job_id}")
        sign_in(page)
        page.get_by_role("button", name="Edit and run again").click()
        arguments = page.get_by_label("Arguments, as JSON")
        arguments.fill('{"x": 20, "y": 3')
        page.keyboard.press("Escape")
        expect(arguments).to_have_count(0)
        page.get_by_role("button", name="Edit and run again").click()
        expect(arguments).to_have_value('{"x": 20, "y": 3')
        page.get_by_role("button", name="Run again", exact=True).click()
        expect(page.locator("dialog .notice-error")).to_contain_text("That is no JSON")
        arguments.fill('{"x": 20, "y": 3}')
        page.context.clear_cookies()
        expect(page.get_by_role("heading", name="Sign in again")).to_be_visible()
        sign_in(page)
        expect(page.get_by_role("heading", name="Sign in again")).to_have_count(0)
        expect(arguments).to_have_value('{"x": 20, "y": 3}')
        page.get_by_role("button", name="Run again", exact=True).click()
        expect(page.locator(".facts")).to_contain_text("Again of")
        expect(page.locator(".card", has_text="Result")).to_contain_text("23")
