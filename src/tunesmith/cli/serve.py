"""What ``tunesmith serve`` says at a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from tunesmith.cli.console import standard_output


def serve(
    model: str, *, host: str, port: int, key_from: str | None, origins: Sequence[str], at_once: int | None,
    context: int | None,
) -> None:  # fmt: skip
    """Serve until Ctrl-C."""
    from tunesmith.serving import serve as room

    def ready(url: str, names: Sequence[str]) -> None:
        _say(f"{url}/v1 answers as OpenAI's API does; models: {', '.join(names)}", "bold")
        _say("Ctrl-C ends it: what is being written has a few seconds, a second Ctrl-C gives it none", "dim")

    room.serve(
        model, host=host, port=port, key_from=key_from, origins=origins, at_once=at_once, context=context,
        on_ready=ready,
    )  # fmt: skip


def _say(text: str, style: str) -> None:
    standard_output().print(Text(text, style), soft_wrap=True)
