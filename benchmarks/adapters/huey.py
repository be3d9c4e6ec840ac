# mypy: disable-error-code="import-not-found, untyped-decorator"
"""huey on SQLite.

Settings: ``SqliteHuey`` in WAL mode (its default) with no results, 4 worker threads, polling each
1 to 10 ms (defaults: 100 ms to 10 s; its consumer finds new tasks by polling alone), no periodic
tasks. It leaves SQLite's ``synchronous`` at its default, FULL, as we do. huey has no call for many
tasks and no asyncio interface: its producer calls from 64 threads.
"""

from __future__ import annotations

from huey import SqliteHuey

from benchmarks.adapters.producer import BOARD, TEXT, URL, serve_threads

huey = SqliteHuey("bench", filename=URL.removeprefix("sqlite:///"), results=False, timeout=60)


@huey.task(name="quick")
def quick(n: int, text: str) -> None:
    BOARD.mark(n)


if __name__ == "__main__":
    # huey names a task after its module, which must be the consumer's.
    from benchmarks.adapters.huey import quick as named

    serve_threads(lambda n: named(n, TEXT), None)
