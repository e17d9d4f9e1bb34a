"""What the project's documents tell a person to type, and where they lead."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if "commands" not in path.parent.name  # these pages are generated
)
PROGRAMS = ("tunesmith", "make")


def typed(text: str) -> list[str]:
    """The command lines in a document's blocks of code, without what stands behind them as a remark."""
    found: list[str] = []
    fence: str | None = None
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fence = line.strip().strip("`") if fence is None else None
            continue
        if fence in ("console", "", "bash") or (fence is None and line.startswith("    ")):
            words = re.split(r"\s+#\s|\s{2,}", line.strip().removeprefix("$ "))[0].split("| tunesmith")
            command = words[0] if len(words) == 1 else "tunesmith" + words[-1]
            if command.split(" ")[0] in PROGRAMS:
                found.append(command.strip())
    return found


def inline(text: str) -> list[str]:
    """Whole command lines within sentences."""
    return re.findall(r"`(tunesmith [a-z][^`]*)`", text)


def tokens(command: str) -> list[str]:
    """What a shell would hand to the program."""
    return shlex.split(command)[1:]


def links(text: str) -> list[str]:
    """Paths of the project that a document leads to."""
    return [
        link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link and link[0] != "#"
    ]
