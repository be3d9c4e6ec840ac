"""The command ``mesh`` as a program."""

from __future__ import annotations

import io
import sys
from typing import Any, cast

import pytest

from mesh import __version__
from mesh.cli import main


class Reluctant(io.RawIOBase):
    """A file that takes a few bytes at a time, as a pipe does in whose write a signal comes."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data[:5])
        self.taken += piece
        return len(piece)


def test_unbuffered_output_is_written_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Reluctant()
    # So it is under PYTHONUNBUFFERED, which containers have.
    unbuffered: Any = io.TextIOWrapper(cast("Any", file), write_through=True)
    monkeypatch.setattr(sys, "stdout", unbuffered)
    monkeypatch.setattr(sys, "argv", ["mesh", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert file.taken.decode() == f"jobmesh {__version__}\n"
