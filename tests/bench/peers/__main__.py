"""`python -m tests.bench.peers`: see the package."""

from __future__ import annotations

import argparse
import os
import platform
import sys

from tests.bench import peers


def main() -> None:
    """Measure the peers that were named, else all, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description="The peers at six no-op phases.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{', '.join(peers.PEERS)} (default: all)")
    parser.add_argument("--jobs", type=int, default=peers.JOBS, help="submitted at once (default: %(default)s)")
    parser.add_argument("--singles", type=int, default=peers.SINGLES, help="one by one (default: %(default)s)")
    wanted = parser.parse_args()
    if strangers := set(wanted.peers) - set(peers.PEERS):
        parser.error(f"no peer is called {', '.join(sorted(strangers))}")
    if not peers.is_installed():
        sys.exit(peers.INSTALL)
    print(f"machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print(f"{wanted.jobs} jobs of {peers.PHASES} no-op phases at once, then {wanted.singles} jobs one by one")
    print(peers.HEADER, flush=True)
    try:
        peers.measure(
            wanted.peers or peers.PEERS,
            jobs=wanted.jobs,
            singles=wanted.singles,
            tell=lambda figures: print(peers.row(figures), flush=True),
        )
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
