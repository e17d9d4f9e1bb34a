"""The evaluation of a run: the verdict in words, and the report as `tunesmith evaluate` wrote it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from tunesmith.studio.context import Missing, project_of, within
from tunesmith.studio.reading import read_json
from tunesmith.studio.render import page, words
from tunesmith.studio.state import sentences

POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""The report has a policy of its own, which allows exactly its own script and style; this one shuts it off from the
studio besides: it has no origin, and may ask for nothing."""


def _evaluation(request: Request) -> Response:
    project, t = project_of(request), words(request)
    run = project.run(request.path_params["run"])
    has_report = (run.evaluation / "report.html").is_file()
    said = sentences(read_json(run.evaluation / "results.json", []))
    return page(
        request, "evaluation.html", title=f"{t('layout.evaluation')} · {project.name_of(run)}", tab="evaluation",
        run=run, sentences=[] if has_report else said, has_report=has_report,  # the report begins with them
    )  # fmt: skip


def _report(request: Request) -> Response:
    run = project_of(request).run(request.path_params["run"])
    path = within(run.path, "evaluation/report.html", "the report lies outside of the run")
    try:
        html = path.read_text("utf-8")
    except OSError:
        raise Missing(f"{run.path.name} has no report yet; it is written when the run was evaluated") from None
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})


routes = [Route("/evaluation/{run:path}", _evaluation), Route("/report/{run:path}", _report)]
