"""Home: every run in a line, the newest first; and what to do where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tunesmith.studio.context import project_of
from tunesmith.studio.numbers import moment
from tunesmith.studio.render import page, words
from tunesmith.studio.state import Summaries, Summary

COLUMNS: dict[str, Callable[[Summary], Any]] = {
    "name": lambda run: run.name.lower(),
    "state": lambda run: ("running", "failed", "stopped", "new", "finished").index(run.state),
    "model": lambda run: run.model.lower(),
    "loss": lambda run: run.loss if run.loss is not None else float("inf"),
    "score": lambda run: -run.score if run.score is not None else float("inf"),
    "time": lambda run: -run.time,
}
"""What runs can be sorted by: the best, or the newest, first."""


def _home(request: Request) -> Response:
    project = project_of(request)
    summaries: Summaries = project.kept.setdefault("home", Summaries())
    runs = [summaries.of(run, project.name_of(run), project.jobs.running) for run in project.runs()]
    by = request.query_params.get("sort", "time")
    by = by if by in COLUMNS else "time"
    backwards = request.query_params.get("order") == "back"
    runs.sort(key=COLUMNS["time"])
    runs.sort(key=COLUMNS[by], reverse=backwards)
    return page(
        request, "home.html", title=words(request)("home.title"), tab="home", runs=runs, columns=list(COLUMNS), by=by,
        backwards=backwards, moment=moment,
        recipes=[path.relative_to(project.folder).as_posix() for path in project.recipes()],
    )  # fmt: skip


routes = [Route("/", _home)]
