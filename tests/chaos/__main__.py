"""``python -m tests.chaos``: see the package."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from mesh.testing.servers import MariaServer

from .cluster import DEPLOYMENTS
from .run import Settings, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--deployment", choices=[*DEPLOYMENTS, "all"], default="all")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between calls")
    parser.add_argument("--only", action="append", default=[], help="a fault, or its first word")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    failed = 0
    for deployment in DEPLOYMENTS if given.deployment == "all" else (given.deployment,):
        if given.deployment == "all" and deployment == "mariadb" and not MariaServer.is_installed():
            sys.stdout.write("chaos on mariadb is left out: no MariaDB is installed\n")
            continue
        settings = Settings(deployment, seed, given.minutes * 60, given.pause, tuple(given.only))
        outcome = asyncio.run(run(settings))
        sys.stdout.write(outcome.text() + "\n")
        sys.stdout.flush()
        failed += not outcome.ok
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
