"""kb.toml and the environment become validated settings, and every mistake is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from kb_pipeline.config.load import Configuration, load
from kb_pipeline.errors import ConfigError

FILE = """
[embedder]
provider = "openai"
model = "text-embedding-3-small"
dims = 1536

[eval]
golden = "golden/set"

[tenants.docs]
source = "docs"
patterns = ["**/*.md"]

[tenants.my-notes]
source = "s3://bucket/notes"

[tenants.my-notes.embedder]
dims = 512
"""


def written(folder: Path, text: str = FILE) -> Path:
    path = folder / "kb.toml"
    path.write_text(text)
    return path


def read(folder: Path, text: str = FILE, **environ: str) -> Configuration:
    return load(written(folder, text), environ=environ)


def test_the_file_is_read_and_tenants_inherit(tmp_path: Path) -> None:
    settings = read(tmp_path).settings
    assert settings.embedder.dims == 1536
    assert settings.tenant("my-notes").embedder.dims == 512
    assert settings.tenant("my-notes").embedder.model == "text-embedding-3-small"
    assert settings.tenant("docs").patterns == ("**/*.md",)


def test_relative_paths_are_seen_from_the_file(tmp_path: Path) -> None:
    settings = read(tmp_path).settings
    assert settings.tenant("docs").source == str(tmp_path / "docs")
    assert settings.tenant("my-notes").source == "s3://bucket/notes"
    assert settings.eval.golden == str(tmp_path / "golden/set")


def test_the_environment_stands_above_the_file(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        KB_EMBEDDER__DIMS="256",
        KB_EMBEDDER__MODEL="3",
        KB_EMBEDDER__NORMALIZE="false",
        KB_TENANTS__DOCS__PATTERNS='["*.rst"]',
        KB_TENANTS__MY_NOTES__SOURCE="/elsewhere",
        KB_INDEX__EXACT_BELOW="auto",
    ).settings
    assert settings.embedder.dims == 256
    assert settings.embedder.model == "3"
    assert settings.embedder.normalize is False
    assert settings.tenant("docs").patterns == ("*.rst",)
    assert settings.tenant("my-notes").source == "/elsewhere"


def test_a_tenant_can_come_from_the_environment_alone() -> None:
    settings = load(environ={"KB_TENANTS__WIKI__SOURCE": "/srv/wiki"}).settings
    assert settings.tenant("wiki").source == "/srv/wiki"


def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path) -> None:
    others = {"KB_HOME": "x", "KB_DSN": "y", "KB_TEST_DATA": "z", "KB_TEST_A__B": "q", "KB_PG_MAJOR": "16", "KBX": "1"}
    assert read(tmp_path, **others).settings.embedder.dims == 1536


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[embedder]\nmodle = 'x'", ("[embedder] modle", "embedder.model")),
        ("[embeder]\nmodel = 'x'", ("embeder", "did you mean embedder?")),
        ("[tenants.docs]\nsorce = 'x'", ("[tenants.docs] sorce", "tenants.docs.source")),
        (
            "[tenants.docs.chunking]\nmax_token = 3",
            ("[tenants.docs.chunking] max_token", "tenants.docs.chunking.max_tokens"),
        ),
        ("max_tokens = 3", ("max_tokens", "chunking.max_tokens")),
        ("[index]\nqqqq = 1", ("[index] qqqq", "valid here:", "ef_construction")),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_valid_one(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "kb.toml") in message
    for part in parts:
        assert part in message


def test_every_unknown_key_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "[embedder]\nmodle = 1\n[index]\npreste = 'high'", KB_EVAL__GOLDN="x")
    assert "embedder.model" in str(caught.value)
    assert "index.preset" in str(caught.value)
    assert "KB_EVAL__GOLDN" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KB_EMBEDDER_MODEL", "KB_EMBEDDER__MODEL"),
        ("KB_EMBEDDER", "KB_EMBEDDER__"),
        ("KB_TENANTS_DOCS_SOURCE", "two underscores"),
    ],
)
def test_a_variable_with_too_few_underscores_is_not_ignored(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        load(environ={name: "x"})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[embedder]\ndims = 'many'", ("embedder.dims = 'many'", "valid integer")),
        ("[index]\npreset = 'huge'", ("index.preset = 'huge'", "balanced")),
        ("[tenants.docs.eval]\nrecall_floor = 3", ("recall_floor = 3", "less than or equal to 1")),
        ("[chunking]\nmax_tokens = 100\noverlap_tokens = 90", ("chunking", "more than half")),
        ("[tenants.'Bad Name']\nsource = 'x'", ("Bad Name", "not valid")),
        ("[tenants]\ndocs = 'x'", ("[tenants.NAME]",)),
        ("[embedder\n", ("not valid TOML", "line 1")),
    ],
)
def test_a_wrong_value_is_one_readable_line(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert "pydantic" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KB_EMBEDDER__DIMS"):
        read(tmp_path, KB_EMBEDDER__DIMS="many")


def test_a_named_file_must_exist_and_the_places_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "no.toml", environ={})
    assert str(tmp_path / "no.toml") in str(caught.value)
    with pytest.raises(ConfigError, match="KB_CONFIG"):
        load(environ={"KB_CONFIG": str(tmp_path / "other.toml")})


def test_no_file_is_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configuration = load(environ={})
    assert configuration.path is None
    assert configuration.settings.embedder.provider == "local"
    assert configuration.settings.tenant("default").source is None
