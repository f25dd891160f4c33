"""Which format a file name says."""

from __future__ import annotations

from pathlib import PurePosixPath

CODE = {
    "python": ("py", "pyi"),
    "javascript": ("js", "jsx", "mjs", "cjs"),
    "typescript": ("ts", "mts", "cts"),
    "tsx": ("tsx",),
    "go": ("go",),
    "java": ("java",),
    "rust": ("rs",),
    "c": ("c", "h"),
    "cpp": ("cc", "cpp", "cxx", "hh", "hpp", "hxx"),
    "csharp": ("cs",),
    "ruby": ("rb",),
    "php": ("php",),
    "kotlin": ("kt", "kts"),
    "swift": ("swift",),
    "scala": ("scala",),
    "lua": ("lua",),
    "bash": ("sh", "bash"),
    "sql": ("sql",),
    "powershell": ("ps1", "psm1"),
}
"""Languages of tree-sitter, by extension."""

FORMATS = {
    "md": "markdown", "markdown": "markdown", "mdx": "markdown", "mkd": "markdown", "qmd": "markdown", "rmd": "markdown",
    "html": "html", "htm": "html", "xhtml": "html",
    "rst": "rst", "rest": "rst",
    "txt": "text", "text": "text", "log": "text", "adoc": "text", "org": "text", "tex": "text",
    "json": "json", "yaml": "yaml", "yml": "yaml", "xml": "xml", "csv": "csv", "tsv": "csv",
    "toml": "text", "ini": "text", "cfg": "text",
    "ipynb": "notebook",
    "pdf": "office", "docx": "office", "pptx": "office", "xlsx": "office", "xls": "office", "epub": "office", "msg": "office",
    **{extension: f"code:{language}" for language, extensions in CODE.items() for extension in extensions},
}  # fmt: skip

NAMES = {"readme": "text", "license": "text", "changelog": "text", "makefile": "text", "dockerfile": "text"}
"""Files without an extension that are text all the same."""


def format_of(path: str) -> str | None:
    """The format of a path by its name, None for one that is not known."""
    name = PurePosixPath(path).name.lower()
    stem, dot, extension = name.rpartition(".")
    return FORMATS.get(extension) if dot and stem else NAMES.get(name)
