"""``docs/schedules.md`` tells the truth: its tables and its errors are run."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mesh.errors import InvalidSchedule
from mesh.schedule import parse

PAGE = (Path(__file__).parents[2] / "docs" / "schedules.md").read_text()
ROWS = re.findall(r"^\| `(.+?)` \| ([\w/]+) \| (\d{4}-.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
ERRORS = re.search(r"```\n(every 5 minuts.*?)```", PAGE, re.DOTALL)


def test_the_tables_are_found() -> None:
    assert len(ROWS) > 40


@pytest.mark.parametrize(("expression", "zone", "after", "expected"), ROWS)
def test_an_example_of_the_page(expression: str, zone: str, after: str, expected: str) -> None:
    schedule = parse(expression, zone)
    moment = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    for text in expected.split(", "):
        slot = schedule.next_after(moment)
        if text == "never":
            assert slot is None
            return
        assert slot is not None
        wall = re.sub(r"[+-]\d{4}$", "", text) if "+" in text else text
        assert slot.replace(tzinfo=None) == datetime.fromisoformat(wall)
        if wall != text:
            assert slot.strftime("%z") == text.removeprefix(wall)
        moment = slot


def test_the_errors_of_the_page() -> None:
    assert ERRORS is not None
    for line in ERRORS[1].splitlines():
        expression, message = line[:26].strip(), line[26:]
        with pytest.raises(InvalidSchedule) as caught:
            parse(expression)
        assert str(caught.value) == message
