"""`tunesmith studio`: the pages over this folder's runs, in the browser."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path

from rich.text import Text

from tunesmith.cli.console import standard_output
from tunesmith.errors import RunError


def studio(folder: Path, port: int, *, browser: bool) -> None:
    """Serve the studio on this machine until Ctrl-C. Runs that it started go on."""
    from tunesmith.serving.running import serve_app
    from tunesmith.studio import jobs
    from tunesmith.studio.answering import end_left_behind
    from tunesmith.studio.app import guarded, make_app
    from tunesmith.studio.checked import SCRATCH
    from tunesmith.studio.context import Project

    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; name the one that your recipes and runs/ are in")
    project = Project(folder, jobs)

    def ready(url: str) -> None:
        end_left_behind(project.folder / SCRATCH)
        line = f"{url}   the studio over {project.folder}; Ctrl-C ends it, and stops no run"
        standard_output().print(Text(line), soft_wrap=True)
        if browser:
            # Some browsers are waited for, five seconds long: nobody would answer their first request.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    serve_app(guarded(make_app(project)), "127.0.0.1", port, on_ready=ready, on_stop=project.stop)
