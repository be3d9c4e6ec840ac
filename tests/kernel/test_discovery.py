"""Modules with handlers are found and imported; what is wrong with one is said by its name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mesh import ConfigError, Mesh
from mesh.console import load_app

APP = """
from mesh import Mesh

app = Mesh(agents={"m": "memory://discovery"})
"""
HANDLER = """
from shop_found.app import app

@app.job
async def NAME() -> None: ...
"""

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules of a package ``shop_found``, which can be imported."""

    def write(name: str, text: str) -> None:
        path = tmp_path / "shop_found" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path.parent, *path.parent.parents):
            if tmp_path not in folder.parents:
                break
            (folder / "__init__.py").touch()
        path.write_text(text)

    monkeypatch.syspath_prepend(str(tmp_path))
    write("app.py", APP)
    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop_found"]:
        del sys.modules[name]


def the_app() -> Mesh:
    return load_app("shop_found.app:app")


def test_all_modules_of_a_package_are_imported(write: Write) -> None:
    write("jobs/mail.py", HANDLER.replace("NAME", "send"))
    write("jobs/night/tidy.py", HANDLER.replace("NAME", "tidy"))
    write("jobs/__main__.py", "raise AssertionError('a program is not to be run')")
    write("other.py", HANDLER.replace("NAME", "other"))
    app = the_app()
    names = app.autodiscover("shop_found.jobs")
    assert names == [
        "shop_found.jobs",
        "shop_found.jobs.mail",
        "shop_found.jobs.night",
        "shop_found.jobs.night.tidy",
    ]
    assert sorted(app.handlers) == ["send", "tidy"]
    assert app.autodiscover("shop_found.jobs", "shop_found.other")[-1] == "shop_found.other"
    assert sorted(app.handlers) == ["other", "send", "tidy"]


def test_the_command_line_imports_too(write: Write) -> None:
    write("jobs/mail.py", HANDLER.replace("NAME", "send"))
    assert list(load_app("shop_found.app:app", ["shop_found.jobs"]).handlers) == ["send"]
    with pytest.raises(ConfigError, match=r"^--import: there is no module 'shop_found.jbos' in /"):
        load_app("shop_found.app:app", ["shop_found.jbos"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import not_installed_here", r"No module named 'not_installed_here' \(.*bad.py:1\)$"),
        ("\n\nraise RuntimeError('no database')", r"RuntimeError: no database \(.*bad.py:3\)$"),
        ("def f(:", r"SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", r"SystemExit: 3"),
        (HANDLER.replace("NAME", "send"), r"ConfigError: two handlers are named 'send'"),
    ],
)
def test_a_module_that_fails_is_named_with_the_cause(write: Write, text: str, said: str) -> None:
    write("jobs/a_mail.py", HANDLER.replace("NAME", "send"))
    write("jobs/bad.py", text)
    app = the_app()
    begin = r"^app.autodiscover\(\): module 'shop_found.jobs.bad' cannot be imported: .*"
    with pytest.raises(ConfigError, match=begin + said) as raised:
        app.autodiscover("shop_found.jobs")
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize("name", ["", ".jobs", "shop-jobs", "shop_found/jobs", "shop_found..a", 3])
def test_what_is_no_name_of_a_module_is_refused(name: str) -> None:
    app = Mesh(agents={"m": "memory://discovery"})
    with pytest.raises(ConfigError, match=r"must be the full name of a module, such as shop.jobs"):
        app.autodiscover(name)


def test_a_package_within_that_is_missing_is_named() -> None:
    app = Mesh(agents={"m": "memory://discovery"})
    with pytest.raises(
        ConfigError, match=r"there is no module 'mesh.jobs' in .*'import mesh.jobs'"
    ):
        app.autodiscover("mesh.jobs")
