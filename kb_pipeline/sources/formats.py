"""Which format a file has, by its name."""

from __future__ import annotations

from pathlib import PurePosixPath

BY_SUFFIX: dict[str, str] = {
    suffix: format_
    for format_, suffixes in {
        "markdown": "md markdown mdx mdown mkd qmd rmd",
        "html": "html htm xhtml",
        "rst": "rst",
        "text": "txt text adoc asciidoc org tex log",
        "json": "json jsonl ndjson geojson",
        "yaml": "yaml yml",
        "xml": "xml xsd xsl xslt svg rss atom",
        "csv": "csv tsv",
        "notebook": "ipynb",
        "office": "pdf docx pptx xlsx xls epub msg",
        "code:python": "py pyi pyx",
        "code:javascript": "js jsx mjs cjs",
        "code:typescript": "ts mts cts",
        "code:tsx": "tsx",
        "code:go": "go",
        "code:java": "java",
        "code:rust": "rs",
        "code:c": "c h",
        "code:cpp": "cc cpp cxx hh hpp hxx",
        "code:csharp": "cs",
        "code:ruby": "rb",
        "code:php": "php",
        "code:kotlin": "kt kts",
        "code:swift": "swift",
        "code:scala": "scala sc",
        "code:bash": "sh bash zsh",
        "code:powershell": "ps1 psm1 psd1",
        "code:sql": "sql",
        "code:lua": "lua",
        "code:perl": "pl pm",
        "code:r": "r",
        "code:julia": "jl",
        "code:dart": "dart",
        "code:elixir": "ex exs",
        "code:erlang": "erl hrl",
        "code:haskell": "hs",
        "code:ocaml": "ml",
        "code:clojure": "clj cljs",
        "code:groovy": "groovy gradle",
        "code:objc": "m mm",
        "code:css": "css",
        "code:scss": "scss",
        "code:vue": "vue",
        "code:svelte": "svelte",
        "code:toml": "toml",
        "code:ini": "ini cfg",
        "code:hcl": "hcl tf",
        "code:proto": "proto",
        "code:graphql": "graphql gql",
        "code:zig": "zig",
    }.items()
    for suffix in suffixes.split()
}
BY_NAME: dict[str, str] = {
    **dict.fromkeys("readme license licence copying notice changelog authors contributing".split(), "text"),
    "dockerfile": "code:dockerfile",
    "makefile": "code:make",
}
CONVERTED = frozenset({"html", "notebook", "office"})
"""Formats that are turned into Markdown when read: their text, and all offsets, are of that Markdown."""


def format_of(path: str) -> str | None:
    """The format of a file of this name, or None for a name that says nothing."""
    name = PurePosixPath(path).name.lower()
    return BY_SUFFIX.get(name.rpartition(".")[2]) if "." in name else BY_NAME.get(name)
