"""The evaluation of a run: the verdict in words, and the report as `tunesmith evaluate` wrote it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from tunesmith.errors import RunError
from tunesmith.evaluation.verdict import verdict
from tunesmith.stages import results
from tunesmith.studio.context import Missing, project_of, within
from tunesmith.studio.render import page, words

POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""The report has a policy of its own, which allows exactly its own script and style; this one shuts it off from the
studio besides: it has no origin, and may ask for nothing."""


def _evaluation(request: Request) -> Response:
    project, t = project_of(request), words(request)
    run = project.run(request.path_params["run"])
    has_report, sentences = (run.evaluation / "report.html").is_file(), _sentences(run)
    return page(
        request, "evaluation.html", title=f"{t('layout.evaluation')} · {project.name_of(run)}", tab="evaluation",
        run=run, sentences=sentences[:1] if has_report else sentences, has_report=has_report,
    )  # fmt: skip


def _sentences(run: Any) -> list[Any]:
    try:
        return verdict(results(run))
    except (RunError, KeyError, TypeError, AttributeError, ValueError):
        return []  # not measured yet, or by another version: the report says what there is


def _report(request: Request) -> Response:
    run = project_of(request).run(request.path_params["run"])
    path = within(run.path, "evaluation/report.html", "the report lies outside of the run")
    try:
        html = path.read_text("utf-8")
    except OSError:
        raise Missing(f"{run.path.name} has no report yet; it is written when the run was evaluated") from None
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})


routes = [Route("/evaluation/{run:path}", _evaluation), Route("/report/{run:path}", _report)]
