"""Write the pages of docs/ that come from the code, or with --check say which are out of step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "demo",
    "init",
    "run",
    "teach",
    "prepare",
    "train",
    "evaluate",
    "check",
    "sweep",
    "compare",
    "lm-eval",
    "export",
    "prove",
    "publish",
    "chat",
    "serve",
    "models",
)


def settings_page() -> str:
    """Every setting with its default and its help."""
    from tunesmith.cli.flags import show_value
    from tunesmith.settings import every_field

    lines = ["# Settings", "", "Written by `make docs` from `settings/`. In a recipe as TOML, on the command line as",
             "`--train.epochs 3`, in Python by the same names.", ""]  # fmt: skip
    section = ""
    for name, (default, text) in every_field().items():
        if name.split(".")[0] != section:
            section = name.split(".")[0]
            lines += ["", f"## [{section}]", "", "| setting | default | |", "|---|---|---|"]
        shown = show_value(default)
        lines.append(f"| `{name}` | {f'`{shown}`' if shown else ''} | {text} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def commands_page() -> str:
    """What every command says of itself."""
    lines = ["# Commands", "", "Written by `make docs` from what each command says of itself.", ""]
    for command in COMMANDS:
        shown = subprocess.run(
            [sys.executable, "-m", "tunesmith", command, "--help"], capture_output=True, text=True, check=True,
            env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"},
        ).stdout  # fmt: skip
        shown = shown.split("\nSettings, each also")[0].strip()  # those are in settings.md
        shown = "\n".join(line.rstrip() for line in shown.splitlines())
        lines += [f"## tunesmith {command}", "", "```", shown, "```", ""]
    return "\n".join(lines)


def missing_rooms() -> list[str]:
    """Rooms that README's map does not name."""
    readme = (ROOT / "README.md").read_text()
    rooms = [p for p in (ROOT / "src" / "tunesmith").iterdir() if not p.name.startswith("__")]
    return [p.name for p in rooms if f"src/tunesmith/{p.name})" not in readme and p.name != "py.typed"]


def main() -> int:
    pages = {"settings.md": settings_page(), "commands.md": commands_page()}
    if "--check" not in sys.argv:
        for name, text in pages.items():
            (ROOT / "docs" / name).write_text(text)
        return 0
    stale = [n for n, text in pages.items() if (ROOT / "docs" / n).read_text() != text]
    for name in stale:
        print(f"docs/{name} is out of step with the code; run: make docs")
    for room in missing_rooms():
        print(f"README.md's map does not name src/tunesmith/{room}")
    return 1 if stale or missing_rooms() else 0


if __name__ == "__main__":
    sys.exit(main())
