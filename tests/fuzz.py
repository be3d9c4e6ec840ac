"""``make fuzz``: what is random in the suite, seed after seed, for so many minutes.

In turn: the models and the fuzzing with more examples and a fresh seed, and the tests under faults
with another plan. Ends at the first failure, which replays with the command printed before it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time

RANDOM = ["tests/test_models.py", "tests/test_fuzzing.py"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("tests", nargs="*", help="those to run under faults")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    rounds = 0
    while time.monotonic() < until:
        seed = random.randrange(10**6)
        for arguments in (
            [f"--hypothesis-seed={seed}", "--hypothesis-profile=fuzz", "--timeout=3600", *RANDOM],
            ["--faulty", str(seed), "-k", "not nats", *options.tests],
        ):
            command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *arguments]
            print("+", " ".join(command), flush=True)  # noqa: T201
            if done := subprocess.run(command, env=os.environ, check=False).returncode:
                return done
        rounds += 1
    print(f"{rounds} rounds")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
