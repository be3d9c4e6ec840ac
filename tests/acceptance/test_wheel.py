"""The built wheel, in a clean environment outside the checkout, beside an application that has
top-level packages named ``agents``, ``master`` and ``workers`` of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

TASKS = """
from mesh import Mesh

app = Mesh("sqlite:///mesh.db")

@app.job(lane="sums")
async def add(a: int, b: int) -> int:
    return a + b
"""

RUN = """
import agents, master, workers.tasks
from workers.tasks import add, app

assert agents.MINE and master.MINE and workers.MINE
job = app.sync(add.enqueue(2, 3))
print(app.sync(job.result(timeout=60)), app.sync(job.status()))
app.sync.close()
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(600)
def test_the_wheel_runs_a_job_in_a_clean_environment(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", tmp_path, ROOT, cwd=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"mesh", "mesh_agents", "mesh_master", "mesh_workers"}
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    dashboard = ROOT / "master/mesh_master/api/dashboard"
    files = {path.relative_to(ROOT / "master") for path in dashboard.rglob("*") if path.is_file()}
    assert {path.as_posix() for path in files} <= set(names)

    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    run(environment / "bin/python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)

    application = tmp_path / "application"
    for package in ("agents", "master", "workers"):
        (application / package).mkdir(parents=True)
        (application / package / "__init__.py").write_text("MINE = True\n")
    (application / "workers/tasks.py").write_text(TASKS)
    (application / "run.py").write_text(RUN)
    up = subprocess.Popen([environment / "bin/mesh", "up", "workers.tasks:app"], cwd=application)
    try:
        output = run(environment / "bin/python", "run.py", cwd=application)
    finally:
        up.terminate()
        assert up.wait(30) == 0
    assert output.split() == ["5", "succeeded"]
    listed = run(
        environment / "bin/mesh", "jobs", "ls", "--app", "workers.tasks:app", "--json",
        cwd=application,
    )  # fmt: skip
    assert '"add"' in listed
