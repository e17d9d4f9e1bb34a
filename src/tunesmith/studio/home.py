"""Home: every run in a line, the newest first; and what to do where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, get_args

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tunesmith.errors import TunesmithError
from tunesmith.studio.context import Project, project_of
from tunesmith.studio.curves import drawn
from tunesmith.studio.numbers import moment
from tunesmith.studio.render import page, words
from tunesmith.studio.state import State, Summary, summary_of

COLUMNS: dict[str, Callable[[Summary], Any]] = {
    "name": lambda run: run.name.lower(),
    "state": lambda run: get_args(State).index(run.state),
    "model": lambda run: run.model.lower(),
    "loss": lambda run: run.loss if run.loss is not None else float("inf"),
    "score": lambda run: -run.score if run.score is not None else float("inf"),
    "time": lambda run: -run.time,
}
"""What runs can be sorted by: the best, or the newest, first."""

AHEAD = 2


def _home(request: Request) -> Response:
    project = project_of(request)
    runs = [summary_of(project, run) for run in project.runs()]
    by = request.query_params.get("sort", "time")
    by = by if by in COLUMNS else "time"
    backwards = request.query_params.get("order") == "back"
    newest = sorted(runs, key=COLUMNS["time"])
    runs = sorted(newest, key=COLUMNS[by], reverse=backwards)
    answer = page(
        request, "home.html", title=words(request)("home.title"), tab="home", runs=runs, columns=list(COLUMNS), by=by,
        backwards=backwards, moment=moment,
        recipes=[path.relative_to(project.folder).as_posix() for path in project.recipes()],
    )  # fmt: skip
    answer.background = BackgroundTask(_read_ahead, project, [run.name for run in newest[:AHEAD]])
    return answer


def _read_ahead(project: Project, names: list[str]) -> None:
    """Somebody will open one of the newest runs: its curves are read by then."""
    for name in names:
        with contextlib.suppress(TunesmithError, OSError):
            drawn(project, project.run(name))


routes = [Route("/", _home)]
