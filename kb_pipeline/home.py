"""Where this user's data lives."""

from __future__ import annotations

import os
from pathlib import Path


def kb_home() -> Path:
    """The data folder, absolute: `KB_HOME`, or `.kb` in the working directory. It need not exist yet."""
    return Path(os.environ.get("KB_HOME") or ".kb").expanduser().absolute()
