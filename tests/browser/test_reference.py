"""The page that shows the API's routes to people."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from .conftest import Site
from .test_dashboard import WIDTHS, get, looking


def test_every_route_is_shown(browser: Browser, site: Site) -> None:
    site.serve()
    paths = get(site, "openapi.json")["paths"]
    with looking(browser, WIDTHS["narrow"]) as page:
        page.goto(f"{site.url}/api/v1/docs")
        expect(page.locator("details")).to_have_count(sum(map(len, paths.values())))
        page.get_by_text("POST /api/v1/jobs", exact=True).click()
        shown = page.locator("details[open]")
        expect(shown).to_contain_text("Enqueue a job by its handler's name")
        expect(shown).to_contain_text('"payload"')
        expect(shown).to_contain_text("413")
        wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not wide
