"""What the README and docs tell people to type exists: commands, options, make targets, settings, imports."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from kb_pipeline.cli.app import build_app
from kb_pipeline.config.load import load

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md")))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def fenced(name: str, language: str) -> list[str]:
    return [body for found, body in FENCED.findall(page(name)) if found == language]


def typed(name: str, program: str) -> Iterator[list[str]]:
    """The words behind `program` wherever a page has it as a command: in code blocks and between backticks."""
    text = page(name)
    blocks = [body for language, body in FENCED.findall(text) if language in ("", "sh", "bash", "console")]
    text = FENCED.sub("", text)
    blocks += [textwrap.dedent(block) for block in INDENTED.findall(text)]
    lines = [line for block in blocks for line in block.splitlines()]
    for line in [*lines, *INLINE.findall(INDENTED.sub("", text))]:
        command = re.match(rf"(?:\$ )?(?:\w+=\S+ )*(?:\.venv/bin/)?{program}(?: (.*))?$", line.strip())
        if command is not None:
            yield shlex.split(command[1] or "", comments=True)


def problem(command: Any, words: list[str]) -> str | None:
    """What is wrong with the words of a `kb` command; nothing is run."""
    place = "kb"
    words = [word for word in words if word != "--debug"]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"`{place}` has no {words[0]}"
        place, command = f"{place} {words[0]}", command.commands[words[0]]
        words = words[1:]
    known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
    for word in words:
        if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known:
            return f"`{place}` has no option {word}"
    return None


@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_option_exists(name: str) -> None:
    app = typer.main.get_command(build_app())
    found = list(typed(name, "kb"))
    assert len(found) > 15 or name != "README.md"
    assert [said for words in found if (said := problem(app, words))] == []


def test_a_command_or_option_that_is_none_is_found() -> None:
    app = typer.main.get_command(build_app())
    assert problem(app, ["search", "q", "-k", "5", "--json"]) is None
    assert problem(app, ["serch", "q"]) == "`kb` has no serch"
    assert problem(app, ["db", "begin"]) == "`kb db` has no begin"
    assert problem(app, ["search", "q", "--wher", "a=b"]) == "`kb search` has no option --wher"


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", page("Makefile"), re.MULTILINE))
    named = {words[0] for name in PAGES for words in typed(name, "make") if words and "=" not in words[0]}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("name", PAGES)
def test_every_setting_is_valid(name: str, tmp_path: Path) -> None:
    for number, body in enumerate(fenced(name, "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(body, encoding="utf-8")
        load(path, environ={})


def test_every_import_works() -> None:
    for name in PAGES:
        for body in fenced(name, "python"):
            for module, names in re.findall(r"^from (kb_pipeline\S*) import (.+)$", body, re.MULTILINE):
                for each in names.split(", "):
                    assert hasattr(import_module(module), each), f"{name}: {module} has no {each}"


def test_links_lead_somewhere() -> None:
    for name in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page(name)):
            assert ((ROOT / name).parent / target).exists(), f"{name} links to {target}"
