"""Settings on the command line: ``--train.epochs 3`` or ``--train.epochs=3``, by the recipe's own names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.cli.edge import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

STAGE_FLAGS = ("--run", "--fresh", "--json", "--help")
FIT_FLAGS = (*STAGE_FLAGS, "--fit", "--processes", "--hosts", "--here")
CHECK_FLAGS = ("--rows", "--html", "--json", "--help")
TEACH_FLAGS = (*STAGE_FLAGS, "--dry-run")
SWEEP_FLAGS = ("--run", "--parallel", "--json", "--help")
FLAGS = {
    "run": FIT_FLAGS, "teach": TEACH_FLAGS, "train": FIT_FLAGS, "check": CHECK_FLAGS, "sweep": SWEEP_FLAGS,
}  # fmt: skip
"""By command; the other stages take `STAGE_FLAGS`."""


def settings_last(tokens: Sequence[str]) -> list[str]:
    """``tokens`` with the settings moved to the end, where a command collects them: people also write
    ``run --train.epochs 3 recipe.toml``."""
    rest: list[str] = []
    settings: list[str] = []
    todo = list(tokens)
    while todo:
        token = todo.pop(0)
        if token == "--":
            return [*rest, token, *todo, *settings]
        if not _is_setting(token):
            rest.append(token)
            continue
        settings.append(token)
        if "=" not in token and todo and not todo[0].startswith("--"):
            settings.append(todo.pop(0))
    return [*rest, *settings]


def parse_settings(tokens: Sequence[str], command: str = "run") -> dict[str, Any]:
    """Dotted name -> value, read as TOML would. Raises `UsageError`, as `named_settings` does."""
    from tunesmith.settings import parse_value

    return {name: parse_value(text) for name, text in named_settings(tokens, command)}


def named_settings(tokens: Sequence[str], command: str) -> list[tuple[str, str]]:
    """(dotted name, value as it was written) in their order. Raises `UsageError` for a flag without a value, a flag
    that does not exist or that ``command`` does not take, and a stray word."""
    settings: list[tuple[str, str]] = []
    todo = list(tokens)
    while todo:
        token = todo.pop(0)
        if not token.startswith("-"):
            raise UsageError(f"{token!r} stands alone; settings are named, as in --train.epochs 3")
        if not _is_setting(token):
            raise UsageError(_no_flag(token.partition("=")[0], command))
        name, equals, value = token[2:].partition("=")
        if not equals:
            if not todo or todo[0].startswith("--"):
                raise UsageError(f"{token} needs a value, as in {token} {_example(name)}")
            value = todo.pop(0)
        settings.append((name, value))
    return settings


def _is_setting(token: str) -> bool:
    name = token.partition("=")[0]
    return name.startswith("--") and "." in name.strip("-.")


def _no_flag(flag: str, command: str) -> str:
    """That ``command`` has no such flag, with the flag or setting that was probably meant: ``--epochs`` is
    ``--train.epochs``."""
    import difflib

    from tunesmith.settings import every_field

    taken = FLAGS.get(command, STAGE_FLAGS)
    if flag in (*CHECK_FLAGS, *FIT_FLAGS, *TEACH_FLAGS, *SWEEP_FLAGS):  # another command's
        return f"the command {command} takes no {flag}; it takes {', '.join(taken)} and settings"
    name = flag.lstrip("-")
    for setting in every_field():
        if name.replace("-", "_") == setting.rsplit(".", 1)[-1]:
            return f"there is no flag {flag}; did you mean --{setting}?"
    near = difflib.get_close_matches(f"--{name}", taken, 1)
    meant = f"did you mean {near[0]}?" if near else "settings are named as in --train.epochs 3"
    return f"there is no flag {flag}; {meant}"


def _example(name: str) -> str:
    from tunesmith.settings import every_field

    default = every_field().get(name, (None, ""))[0]
    return show_value(default) or "VALUE"


def show_value(value: Any) -> str:
    """A default as it would be written in a recipe; empty for what is unset."""
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(show_value(item) for item in value)
    return str(getattr(value, "kind", value))


def settings_help() -> RenderableType:
    """Every setting with its default and help, by section: the end of ``tunesmith run --help``."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from tunesmith.settings import every_field

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(ratio=1)
    section = ""
    for name, (default, help_text) in every_field().items():
        if section and name.split(".")[0] != section:
            table.add_row()
        section = name.split(".")[0]
        shown = show_value(default)
        note = Text(f" [default: {shown}]" if shown else "", "dim")
        table.add_row(f"--{name}", Text(help_text) + note)
    intro = Text("Settings, each also a line of the recipe and written --SECTION.FIELD VALUE:\n", "bold")
    return Group(intro, table, Text())
