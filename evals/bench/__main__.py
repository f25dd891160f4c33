"""All benchmarks, one process each, so that none inherits the memory of another: `python -m evals.bench`."""

from __future__ import annotations

import argparse
import subprocess
import sys

ALL = (
    "runs",
    "peers",
    "memory",
    "chunker",
    "load",
    "contents_layout",
    "hnsw_build",
    "ground_truth",
    "recall",
    "search",
)


def main() -> None:
    """Run them in order; the exit status is 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ALL), help=f"which (default: {' '.join(ALL)})")
    parser.add_argument("--smoke", action="store_true", help="small input: does everything run?")
    args = parser.parse_args()
    failed: list[str] = []
    for name in args.names:
        command = [sys.executable, "-m", f"evals.bench.{name}", *(["--smoke"] if args.smoke else [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
