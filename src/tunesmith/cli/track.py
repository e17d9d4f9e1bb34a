"""`tunesmith track`: what a run has measured, sent to a tracker."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.console import print_json, visible
from tunesmith.cli.work import kept_for_json


def track(run: Path, to: str, *, as_json: bool) -> None:
    """Raises `TrackerError`."""
    with kept_for_json(as_json) as console:
        from tunesmith.run import RunFolder
        from tunesmith.trackers import track as send

        sent = send(RunFolder(run), to)
        if not as_json:
            console.print(
                Text.assemble(("✓ ", "bold green"), f"{words.how_many(sent.points, 'point')}, to be seen with")
            )
            console.print(Text(f"  {visible(sent.place)}", "bold cyan"), soft_wrap=True)  # to be copied whole
    if as_json:
        print_json({"run": str(run), **asdict(sent)})
