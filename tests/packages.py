"""Programs that the tests need and no wheel has: from the system's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable

import pytest

__all__ = ["installed"]


def installed(package: str, programs: Iterable[str]) -> str:
    """The path of the first of the programs that is there; where none is, and we may, the
    package of Debian that has one is installed. Fails the test if that does not help."""
    if found := _find(programs):
        return found
    advice = f"the test needs {package}: apt-get install {package}"
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        pytest.fail(advice)
    # Another process of the tests may be at it too.
    apt_get = [apt, "-o", "DPkg::Lock::Timeout=300", "-qq"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*apt_get, "update"], env=environment, capture_output=True)
    install = [*apt_get, "install", "-y", "--no-install-recommends", package]
    done = subprocess.run(install, env=environment, capture_output=True, text=True)
    found = _find(programs)
    if found is None:
        pytest.fail(f"{advice}; it was tried: {done.stderr[-500:]}")
    return found


def _find(programs: Iterable[str]) -> str | None:
    # An ordinary account's PATH leaves out where servers are.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    return next((found for name in programs if (found := shutil.which(name, path=path))), None)
