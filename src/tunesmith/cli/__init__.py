"""The room that talks to a person at a terminal: one thin command per room of the road."""

from __future__ import annotations


def main() -> None:
    """The command ``tunesmith``."""
    import sys

    from tunesmith.cli.app import call
    from tunesmith.cli.edge import exit_status

    sys.exit(exit_status(lambda: call(sys.argv[1:])))
