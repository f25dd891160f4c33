"""All benchmarks, one process each, so that none inherits the memory of another: `python -m evals.bench`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from tempfile import TemporaryDirectory

from evals.bench.large import KEPT

ALL = (
    "runs",
    "peers",
    "memory",
    "chunker",
    "load",
    "lane",
    "contents_layout",
    "hnsw_build",
    "ground_truth",
    "recall",
    "search",
    "methods",
    "fleet",
    "lifecycle_load",
    "lifecycle_chaos",
    "migration_backfill",
    "migration_load",
    "migration_repack",
    "migration_chaos",
)


def main() -> None:
    """Run them in order; the exit status is 1 when one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(ALL), help=f"which (default: {' '.join(ALL)})")
    parser.add_argument("--smoke", action="store_true", help="small input: does everything run?")
    args = parser.parse_args()
    failed: list[str] = []
    with TemporaryDirectory(prefix="kb-bench-large-") as large:
        os.chmod(large, 0o755)
        for name in args.names:
            command = [sys.executable, "-m", f"evals.bench.{name}", *(["--smoke"] if args.smoke else [])]
            if subprocess.run(command, env={KEPT: large, **os.environ}, check=False).returncode:
                failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
