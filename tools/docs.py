"""Write the pages of docs/ that come from the code, or with --check say which are out of step."""

from __future__ import annotations

import io
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MORE = {
    "check": "data.md",
    "chat": "chat.md",
    "evaluate": "evaluation.md",
    "export": "export.md",
    "lm-eval": "evaluation.md",
    "prepare": "data.md",
    "prove": "export.md",
    "publish": "export.md",
    "serve": "serve.md",
    "studio": "studio.md",
    "teach": "teacher.md",
    "track": "trackers.md",
}
"""The page written by hand that says what a command's help has no room for."""


SECTIONS = {
    "teach": ("teacher",),
    "prepare": ("data",),
    "check": ("data",),
    "train": ("model", "train"),
    "evaluate": ("evaluate",),
    "export": ("export",),
}
"""The settings that decide what a command does; the others that it takes are on the page of all."""


def settings_tables(wanted: tuple[str, ...] | None = None) -> str:
    """A table a section, of all sections or of those ``wanted``: every setting with its default and its help."""
    from tunesmith.cli.flags import show_value
    from tunesmith.settings import every_field

    tables: dict[str, list[str]] = {}
    for name, (default, text) in every_field().items():
        section = name.split(".")[0]
        shown = show_value(default)
        heading = [f"## [{section}]", "", "| setting | default | |", "|---|---|---|"]
        tables.setdefault(section, heading).append(f"| `{name}` | {f'`{shown}`' if shown else ''} | {text} |")
    return "\n\n".join("\n".join(lines) for section, lines in tables.items() if not wanted or section in wanted)


def settings_page() -> str:
    """Every setting there is."""
    return (
        "# Settings\n\nWritten by `make docs` from `settings/`. In a recipe as TOML, on the command line as\n"
        f"`--train.epochs 3`, in Python by the same names.\n\n{settings_tables()}\n"
    )


def commands() -> dict[str, str]:
    """Name -> help of every command, in the order in which `tunesmith --help` lists them."""
    from rich.console import Console

    from tunesmith.cli.app import app

    helps: dict[str, str] = {}
    for _, name in sorted((app[name].sort_key, name) for name in app if not name.startswith("-")):
        console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
        app.help_print([name], console=console)
        shown = console.file.getvalue().strip()  # pyright: ignore[reportAttributeAccessIssue]
        helps[name] = "\n".join(line.rstrip() for line in shown.splitlines())
    return helps


def first_sentence(shown: str) -> str:
    """What a command does, from its help: the paragraph behind the usage, up to the first full stop."""
    paragraph = " ".join(shown.split("\n\n")[1].split())
    return paragraph.split(". ")[0].rstrip(".")


def command_page(name: str, shown: str) -> str:
    """What one command says of itself, and where more is said."""
    lines = [f"# tunesmith {name}", "", "Written by `make docs` from what the command says of itself.", ""]
    lines += ["```", shown, "```", ""]
    if name in SECTIONS:
        lines += [settings_tables(SECTIONS[name]), "", "All of them: [settings](../settings.md).", ""]
    if name in MORE:
        lines += [f"More: [docs/{MORE[name]}](../{MORE[name]}).", ""]
    return "\n".join([*lines, "[All commands](../commands.md)"]) + "\n"


def commands_page(helps: dict[str, str]) -> str:
    """One line a command."""
    lines = ["# Commands", "", "Written by `make docs` from what each command says of itself.", "",
             "| command | |", "|---|---|"]  # fmt: skip
    lines += [
        f"| [`tunesmith {name}`](commands/{name}.md) | {first_sentence(shown)} |" for name, shown in helps.items()
    ]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Path below docs/ -> text of every page that is written here."""
    helps = commands()
    written = {f"commands/{name}.md": command_page(name, shown) for name, shown in helps.items()}
    return {"settings.md": settings_page(), "commands.md": commands_page(helps), **written}


def faults(docs: Path) -> list[str]:
    """What is out of step with the code, each in a sentence."""
    written = pages()
    stale = [n for n, text in written.items() if not (docs / n).exists() or (docs / n).read_text("utf-8") != text]
    gone = [p.name for p in sorted((docs / "commands").glob("*.md")) if f"commands/{p.name}" not in written]
    return [
        *(f"docs/{name} is out of step with the code; run: make docs" for name in stale),
        *(f"docs/commands/{name} is of a command that is not there; delete it" for name in gone),
    ]


def missing_rooms() -> list[str]:
    """Rooms that README's map does not name."""
    readme = (ROOT / "README.md").read_text("utf-8")
    rooms = [p for p in (ROOT / "src" / "tunesmith").iterdir() if not p.name.startswith("__")]
    return [p.name for p in rooms if f"src/tunesmith/{p.name})" not in readme and p.name != "py.typed"]


def main() -> int:
    docs = ROOT / "docs"
    if "--check" not in sys.argv:
        for name, text in pages().items():
            (docs / name).parent.mkdir(exist_ok=True)
            (docs / name).write_text(text, "utf-8")
        return 0
    found = faults(docs)
    found += [f"README.md's map does not name src/tunesmith/{room}" for room in missing_rooms()]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
