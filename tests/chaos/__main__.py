"""`just chaos`: the storm in its long form, with a report. Ends with 1 when a guarantee did not hold."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import Plan, stack_up, storm


def main() -> int:
    """Run it, and keep the folder when something is wrong."""
    parser = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=190.0, help="of kills; the jobs arrive in this time")
    parser.add_argument("--photos", type=float, default=0.2, help="the fraction of real jobs; the others do nothing")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of what is killed when")
    options = parser.parse_args()
    plan = Plan(jobs=options.jobs, seconds=options.seconds, seed=options.seed, photos=options.photos)
    print(f"seed {plan.seed}: {plan.jobs} jobs, {plan.seconds:.0f} s of kills", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="safelight-chaos-"))
    folder.chmod(0o711)  # PostgreSQL may run under another account, which has to get through to its own folder
    with stack_up(folder) as home:
        report = asyncio.run(storm(home, plan))
    print(report)
    if report.wrong:
        print(f"logs and data are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
