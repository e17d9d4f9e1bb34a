"""Compare: one question, two answers, and nobody is told which model wrote which before the vote."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tunesmith.errors import RunError, TunesmithError
from tunesmith.pages.text import harmless
from tunesmith.pages.words import percent
from tunesmith.run import RunFolder
from tunesmith.studio.answering import Answering, Child, ask
from tunesmith.studio.checked import SCRATCH
from tunesmith.studio.context import Missing, Project, project_of
from tunesmith.studio.render import page, words
from tunesmith.studio.votes import Model, Side, Tally, keep_vote, read_votes, tally
from tunesmith.studio.words import Words

PROPOSED = 4
"""Test questions that can be asked with one click."""
LONGEST_QUESTION = 20_000
KEPT = 100
"""Rounds that can still be voted on."""
SIDES: tuple[Side, Side] = ("left", "right")


@dataclass
class Round:
    """A question with its answers, as the server has seen them: what is voted on cannot be made up."""

    run: RunFolder
    question: str
    models: dict[Side, Model]
    answers: dict[Side, str] = field(default_factory=lambda: dict.fromkeys(SIDES, ""))


class Comparing:
    """What the page remembers: the model that answers, and rounds that wait for a vote."""

    def __init__(self, project: Project) -> None:
        self.answering = Answering(project.folder / SCRATCH)
        self.rounds: dict[str, Round] = {}
        project.on_stop.append(self.answering.stop)

    def keep(self, round_: Round) -> str:
        name = secrets.token_urlsafe(12)
        self.rounds[name] = round_
        for old in list(self.rounds)[:-KEPT]:
            del self.rounds[old]
        return name


def _comparing(project: Project) -> Comparing:
    if "compare" not in project.kept:
        project.kept["compare"] = Comparing(project)
    return project.kept["compare"]


def _run(request: Request) -> RunFolder:
    return project_of(request).run(request.path_params["run"])


def _show(request: Request) -> Response:
    run, t = _run(request), words(request)
    texts = {key: t("compare." + key) for key in ("loading", "answering", "ended", "failed", "left", "right")}
    return page(
        request, "compare.html", title=t("compare.title"), tab="compare", run=run, trained=_trained(run),
        proposed=_proposed(run), tally=tally_lines(tally(read_votes(run)), t), texts=texts, longest=LONGEST_QUESTION,
    )  # fmt: skip


def _trained(run: RunFolder) -> bool:
    return (run.adapter / "adapter_model.safetensors").exists()


def _proposed(run: RunFolder) -> list[str]:
    """The first questions of the rows that were kept out."""
    from tunesmith.dataset import prepare

    try:
        asked = [row.asked[-1]["content"] for row in islice(prepare.read(run.dataset, "test"), 50) if row.answer]
    except (OSError, ValueError, KeyError, IndexError):
        return []
    return list(dict.fromkeys(question for question in asked if question.strip()))[:PROPOSED]


def tally_lines(votes: Tally, t: Words) -> list[str]:
    """What the votes come to, in sentences."""
    if votes.share is None:
        return [t("compare.no_votes")]
    low, high = votes.interval
    said = t("compare.tally", tuned=votes.tuned, base=votes.base, same=votes.same, share=percent(votes.share),
             low=percent(low), high=percent(high))  # fmt: skip
    return [said, t("compare.verdict_" + votes.verdict)]


# -- a question --------------------------------------------------------------------------------------


async def _ask(request: Request) -> Response:
    """Both answers, piece by piece, a JSON object in every line."""
    run, question = _run(request), str((await _json(request)).get("question", "")).strip()
    if not question or len(question) > LONGEST_QUESTION:
        raise RunError("there is no question; write one" if not question else "the question is too long; shorten it")
    if not _trained(run):
        raise RunError(f"{run.path.name} is not trained yet; there is nothing to compare")
    models: list[Model] = ["base", "tuned"]
    random.shuffle(models)
    round_ = Round(run, question, dict(zip(SIDES, models, strict=True)))
    lines = _lines(_comparing(project_of(request)), round_)
    return StreamingResponse(lines, media_type="application/x-ndjson")


async def _lines(comparing: Comparing, round_: Round) -> AsyncIterator[str]:
    try:
        yield _line(loading=not comparing.answering.is_up(round_.run.path))
        async with comparing.answering.models(round_.run.path) as child:
            async for side, piece in _both(child, round_):
                round_.answers[side] += piece
                yield _line(side=side, text=harmless(piece))
        yield _line(done=comparing.keep(round_))
    except TunesmithError as error:
        yield _line(error=str(error))


async def _both(child: Child, round_: Round) -> AsyncIterator[tuple[Side, str]]:
    """The pieces of both answers as they come. When one of them fails, or the person leaves, both end."""
    pieces: asyncio.Queue[tuple[Side, str] | None] = asyncio.Queue()

    async def answer(side: Side, model: Model) -> None:
        try:
            async for piece in ask(child, child.tuned if model == "tuned" else "base", round_.question):
                pieces.put_nowait((side, piece))
        finally:
            pieces.put_nowait(None)

    tasks = [asyncio.create_task(answer(side, model)) for side, model in round_.models.items()]
    try:
        left = len(tasks)
        while left:
            piece = await pieces.get()
            if piece is not None:
                yield piece
                continue
            left -= 1
            for task in tasks:
                if task.done() and (error := task.exception()):
                    raise error
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, TunesmithError):
                await task


def _line(**values: Any) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


# -- a vote ------------------------------------------------------------------------------------------


async def _vote(request: Request) -> Response:
    """Keep the vote, and only then say which was which."""
    run, sent, t = _run(request), await _json(request), words(request)
    comparing = _comparing(project_of(request))
    side = sent.get("side")
    if side not in (*SIDES, "same"):
        raise RunError("a vote is left, right or same")
    round_ = comparing.rounds.get(str(sent.get("id")))
    if round_ is None or round_.run.path != run.path:
        raise Missing("these answers were voted on already, or are too old; ask again")
    del comparing.rounds[str(sent["id"])]
    answers: dict[Model, str] = {model: round_.answers[at] for at, model in round_.models.items()}

    def keep() -> list[str]:
        keep_vote(run, round_.question, answers, round_.models["left"], side)
        return tally_lines(tally(read_votes(run)), t)

    names = {at: t("compare." + model) for at, model in round_.models.items()}
    return JSONResponse({**names, "tally": await run_in_threadpool(keep)})


async def _json(request: Request) -> dict[str, Any]:
    try:
        sent = json.loads(await request.body())
    except ValueError:
        sent = None
    if not isinstance(sent, dict):
        raise RunError("the request is no JSON object; the page sends one")
    return sent


routes = [
    Route("/compare/{run:path}", _show),
    Route("/compare-ask/{run:path}", _ask, methods=["POST"]),
    Route("/compare-vote/{run:path}", _vote, methods=["POST"]),
]
