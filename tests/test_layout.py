"""The rooms of the design: which way imports point, what is declared, how long a file may be."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = ["kb_pipeline", "assets", "evals", "sensors"]
SHELLS = ("kb_pipeline/definitions.py", "kb_pipeline/resources.py", "kb_pipeline/partitions.py", "kb_pipeline/cli/")
"""Files of kb_pipeline that may know Dagster and the other rooms."""


def files() -> list[Path]:
    """What a user of the package gets; benchmarks have their own dependencies."""
    found = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return sorted(path for path in found if "bench" not in path.relative_to(ROOT).parts)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Top-level names of the modules a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_the_engine_knows_neither_dagster_nor_the_other_rooms() -> None:
    engine = [path for path in files() if name(path).startswith("kb_pipeline/") and not name(path).startswith(SHELLS)]
    assert len(engine) > 50
    allowed_evals = {"kb_pipeline/session.py"}
    for path in engine:
        used = set(imports(path)) & {"dagster", "dagster_postgres", "assets", "sensors"}
        assert not used, f"{name(path)} imports {used}"
        assert "evals" not in set(imports(path)) or name(path) in allowed_evals, f"{name(path)} imports evals"


def test_imports_point_one_way() -> None:
    for path in files():
        used = set(imports(path))
        if name(path).startswith("assets/"):
            assert "sensors" not in used, name(path)
        if name(path).startswith("evals/") and path.name not in ("eval_report.py", "checks.py"):
            assert not used & {"dagster", "assets", "sensors"}, name(path)


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    declared = {normal(re.split(r"[\[<>=!~; ]", text)[0]) for text in texts}
    installed = packages_distributions()
    for path in files():
        for module in set(imports(path)) - set(sys.stdlib_module_names) - set(ROOMS):
            providers = {normal(each) for each in installed.get(module, [module])}
            assert providers & (declared | {"pydantic-core"}), (
                f"{name(path)} imports {module}: declare one of {sorted(providers)}"
            )


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_files_are_short_and_packages_empty() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    assert {path: count for path, count in lines.items() if count > 300} == {}
    full = [path for path, count in lines.items() if path.endswith("__init__.py") and count]
    assert full == [], "one import path per name: keep __init__.py empty"


def test_the_lock_has_hashes_and_no_address() -> None:
    text = (ROOT / "requirements" / "lock.txt").read_text()
    assert "://" not in text and " @ " not in text
    pins = [line for line in text.splitlines() if re.match(r"[a-z]", line)]
    assert len(pins) > 100
    assert all(re.match(r"[a-z0-9_-]+==[^ ]+ .*\\$", line) for line in pins)
