"""A run as it learns: its state, curves and log, and each new point within a second of being written."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tunesmith.machine import size
from tunesmith.pages.text import brief, harmless
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.studio.context import Project, project_of
from tunesmith.studio.curves import News, Tail, drawn
from tunesmith.studio.loglines import log_line, stage_name
from tunesmith.studio.numbers import duration, whole_number
from tunesmith.studio.render import page, url, words
from tunesmith.studio.state import Recent, State, Summary, summary_of
from tunesmith.studio.words import Words

LOOKS = 0.25
"""Seconds between two looks at the file."""
STATES = 4
"""Every so many looks the state is looked at too."""
ALIVE = 60
"""After so many looks without news a sign of life, or a browser that has gone would never be noticed."""


def _run(request: Request) -> Response:
    project, t = project_of(request), words(request)
    run = project.run(request.path_params["run"])
    now = _now(project, run, t)
    return page(
        request, "run.html", title=project.name_of(run), tab="run", run=run, now=now, said=t.page("run"),
        small=("learning_rate", "gradient_norm", "tokens_per_second", "memory"),
    )  # fmt: skip


def _points(request: Request) -> Response:
    project, t = project_of(request), words(request)
    offset, curves, events = drawn(project, project.run(request.path_params["run"]))
    log = [line for event in events if (line := log_line(event, t))["text"]]
    return JSONResponse({"offset": offset, "curves": curves, "log": log})


async def _events(request: Request) -> Response:
    project, t = project_of(request), words(request)
    run = project.run(request.path_params["run"])
    asked = request.headers.get("last-event-id") or request.query_params.get("offset", "")
    tail = Tail(run.path / "progress.jsonl", whole_number(asked))
    return StreamingResponse(_stream(project, run, tail, t), media_type="text/event-stream")


async def _stream(project: Project, run: RunFolder, tail: Tail, t: Words) -> AsyncIterator[str]:
    """Server-sent events: ``news`` as `_told` makes it, ``state`` as `_now`, ``reload`` where the file began anew."""
    shown, looks, silent = None, 0, 0
    while not project.stopping:
        news = await run_in_threadpool(tail.read)
        if news is None:
            yield "event: reload\ndata: {}\n\n"
            return
        silent += 1
        if news.last:
            yield _event("news", _told(news, t), tail.offset)
            silent = 0
        if looks % STATES == 0 or news.last:
            now = await run_in_threadpool(_now, project, run, t)
            if now != shown:
                yield _event("state", now, tail.offset)
                shown, silent = now, 0
        if silent >= ALIVE:
            yield ": still here\n\n"
            silent = 0
        looks += 1
        await asyncio.sleep(LOOKS)


def _event(name: str, data: Any, number: int) -> str:
    return f"event: {name}\nid: {number}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def _told(news: News, t: Words) -> dict[str, Any]:
    lines = [line for event in news.log if (line := log_line(event, t))["text"]]
    return {"points": news.points, "validations": news.validations, "forget": news.forget, "log": lines}


def _now(project: Project, run: RunFolder, t: Words) -> dict[str, Any]:
    """Where the run is, in words and numbers."""
    summary = summary_of(project, run)
    recent = Recent(run.path / "progress.jsonl")
    last = recent.events[-1] if recent.events else None
    step, steps = summary.step, summary.steps
    stopping = summary.state == "running" and project.jobs.stopping(run.path)
    newest = last if summary.state == "running" else None
    if newest and newest.stage != "train" and newest.total:  # how far a measurement is, not the training behind it
        step, steps = newest.done or 0, newest.total
    left = None
    if newest and newest.seconds_left and newest.time:
        left = max(0.0, newest.seconds_left - (time.time() - newest.time))
    return {
        "state": summary.state,
        "state_name": t("run.stopping") if stopping else t(f"home.is_{summary.state}"),
        "stopping": stopping,
        "stage": stage_name(summary.stage, t) if summary.state != "finished" else "",
        "step": step, "steps": steps, "left": None if left is None else duration(left, t),
        "doing": harmless(_doing(newest, t)), "failure": harmless(_failure(project, run, summary.state, recent, t)),
        "readings": _readings(summary, recent, t),
    }  # fmt: skip


def _doing(newest: Progress | None, t: Words) -> str:
    """What goes on inside a stage or a step, and how much of it is done."""
    if newest is None or newest.event not in ("working", "asked"):
        return ""
    done = "" if newest.done is None else f" {newest.done:,}" + (f"/{newest.total:,}" if newest.total else "")
    return (newest.message or t("run.asking")) + done + (f" · {brief(newest.question)}" if newest.question else "")


def _failure(project: Project, run: RunFolder, state: State, recent: Recent, t: Words) -> str:
    """Why it does not go on, as far as that is known."""
    if state == "failed":
        failed = recent.last(lambda event: event.event == "failed")
        return failed.message if failed else ""
    if state == "killed":
        return t("run.killed")
    return project.jobs.said(run.path) if state in ("new", "stopped") else ""


def _readings(summary: Summary, recent: Recent, t: Words) -> Sequence[tuple[str, str]]:
    """(name, value) of the newest numbers."""
    step = next((event for event in reversed(recent.events) if event.event == "step"), None)
    readings: list[tuple[str, str | None]] = [("best", None if summary.loss is None else f"{summary.loss:.3f}")]
    if step is not None:
        readings += [
            ("loss", None if step.loss is None else f"{step.loss:.3f}"),
            ("epoch", None if step.epoch is None else f"{step.epoch:.2f}"),
            ("learning_rate", None if step.learning_rate is None else f"{step.learning_rate:.1e}"),
            ("gradient_norm", None if step.gradient_norm is None else f"{step.gradient_norm:.2f}"),
            ("tokens_per_second", None if step.tokens_per_second is None else f"{step.tokens_per_second:,.0f}"),
            ("memory", None if step.memory is None else size(step.memory)),
        ]
    return [(t(f"run.{name}"), value) for name, value in readings if value is not None]


def _stop(request: Request) -> Response:
    project = project_of(request)
    run = project.run(request.path_params["run"])
    project.jobs.stop(run.path)
    return RedirectResponse(url("run", project.name_of(run)), 303)


def _continue(request: Request) -> Response:
    project = project_of(request)
    run = project.run(request.path_params["run"])
    project.jobs.start(run.path)
    return RedirectResponse(url("run", project.name_of(run)), 303)


routes = [
    Route("/run/{run:path}", _run),
    Route("/points/{run:path}", _points),
    Route("/events/{run:path}", _events),
    Route("/stop/{run:path}", _stop, methods=["POST"]),
    Route("/continue/{run:path}", _continue, methods=["POST"]),
]
