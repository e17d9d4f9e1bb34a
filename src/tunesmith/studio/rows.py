"""The data of a run: its rows with what is learned of them, and what was left out and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tunesmith.dataset import tokens as dataset_tokens
from tunesmith.dataset.split import PARTS
from tunesmith.dataset.store import Tokens
from tunesmith.errors import RunError
from tunesmith.models.chat import ChatFormat
from tunesmith.pages.text import language
from tunesmith.pages.tokens import token_row
from tunesmith.run import RunFolder
from tunesmith.sources.example import Origin
from tunesmith.studio.context import Missing, Project, project_of, within
from tunesmith.studio.numbers import whole_number
from tunesmith.studio.reading import read_json
from tunesmith.studio.render import fragment, page, url, words
from tunesmith.studio.row_files import Found, RowFile, origin_of

ROWS = 20
"""On a page."""
SHOWN, WHOLE = 1200, 60_000
"""Bytes of a row that are shown among others, and alone."""
OUT = ("quarantine", "removed")
OPEN = 8
"""Of so many files the beginnings of lines are kept: 40 MB of one with five million rows."""


def _data(request: Request) -> Response:
    project, t = project_of(request), words(request)
    run = project.run(request.path_params["run"])
    part, text, file, first, alone = _asked(request)
    told = _report(run)
    counts = _counts(told) if told else None
    found = Found()
    if counts is not None:
        rows = _file(project, run, part)
        filtered = (text or file) and not alone
        found = rows.search(text, file, first, ROWS) if filtered else rows.rows(first, 1 if alone else ROWS)
    name = project.name_of(run)

    def to(**changed: object) -> str:
        return url("data", name, **{"part": part, "q": text, "file": file, **changed})

    return page(
        request, "rows.html", title=f"{t('layout.data')} · {name}", tab="data", run=run, counts=counts, part=part,
        parts=[key for key in (*PARTS, *OUT) if counts and (key in PARTS or counts[key])], text=text, file=file,
        rows=[_shown(number, row, WHOLE if alone else SHOWN) for number, row in found.rows], found=found, first=first,
        alone=alone, to=to, sources=_sources(told), page_rows=ROWS, has_tokens=part in PARTS,
    )  # fmt: skip


def _asked(request: Request) -> tuple[str, str, str, int, bool]:
    """(part, text, file, first, alone) of the address; what makes no sense is taken as not said."""
    query = request.query_params
    part, number = query.get("part", ""), whole_number(query.get("from", ""))
    part = part if part in (*PARTS, *OUT) else PARTS[0]
    return part, query.get("q", "")[:200].strip(), query.get("file", "")[:200].strip(), number, "alone" in query


def _report(run: RunFolder) -> dict[str, Any]:
    """What preparing has told; empty before the data is prepared. Raises `RunError` when it is damaged."""
    path = run.dataset / "report.json"
    told = read_json(path, dict[str, Any]())
    if told and isinstance(told.get("rows"), dict) and all(isinstance(told["rows"].get(part), int) for part in PARTS):
        return told
    if path.exists():
        raise RunError(f"{path} is damaged; prepare the data again")
    return {}


def _counts(told: Mapping[str, Any]) -> dict[str, int]:
    """Rows by part, of what is left out too."""
    removed = told.get("merged", 0) + told.get("removed", 0)
    return {**told["rows"], "quarantine": told.get("quarantined", 0), "removed": removed}


def _sources(told: Mapping[str, Any]) -> list[str]:
    return [source["source"] for source in told.get("sources", ())][:100]


def _file(project: Project, run: RunFolder, part: str) -> RowFile:
    """The rows of a part; where their lines begin is kept until the file is another one."""
    path = within(run.path, f"dataset/{part}.jsonl", f"the rows of {run.path.name} lie outside of it")
    kept: dict[Path, tuple[Any, RowFile]] = project.kept.setdefault("rows", {})
    try:
        status = path.stat()
    except OSError:
        raise Missing(f"{path} is not there; prepare the data again") from None
    stamp = status.st_ino, status.st_mtime_ns, status.st_size
    known = kept.pop(path, None)
    if known is None or known[0] != stamp:
        known = stamp, RowFile(path)
    kept[path] = known  # the newest last
    for old in list(kept)[:-OPEN]:
        kept.pop(old, None)
    return known[1]


def _shown(number: int, row: dict[str, Any], most: int) -> dict[str, Any]:
    """A row as the page shows it: at most ``most`` bytes of its text, counted over its messages."""
    messages, left = [], most
    for message in row.get("messages", ()):
        content = str(message.get("content", ""))
        text = _cut(content, left)
        left -= len(text.encode("utf-8", "replace"))
        messages.append({
            "role": str(message.get("role", "")), "text": text, "more": len(content) - len(text),
            "learned": bool(message.get("learn")), "language": language(text[:400]),
        })  # fmt: skip
    text = _cut(str(row.get("text", "")), most)
    of = row.get("of")
    return {
        "number": number, "origin": _origin(origin_of(row)), "reason": str(row.get("reason", "")), "messages": messages,
        "text": text, "of": _origin(of) if isinstance(of, dict) else "",
        "more": sum(m["more"] for m in messages) + len(str(row.get("text", ""))) - len(text),
    }  # fmt: skip


def _cut(text: str, most: int) -> str:
    return text.encode("utf-8", "replace")[: max(0, most)].decode("utf-8", "ignore") if len(text) * 4 > most else text


def _origin(raw: dict[str, Any]) -> str:
    return str(Origin(str(raw.get("file", "")), raw.get("line"), str(raw.get("part", ""))))


def _tokens(request: Request) -> Response:
    """One row as the model sees it: a piece of a page."""
    project = project_of(request)
    run = project.run(request.path_params["run"])
    part, _, _, number, _ = _asked(request)
    if part not in PARTS:
        raise Missing(f"rows in {part} have no tokens: nothing is learned from them")
    folder = within(run.path, "dataset/tokens", "the tokens lie outside of the run")
    try:
        stored = Tokens.open(folder, part)
    except OSError:
        raise Missing(f"{folder} cannot be read; prepare the data again") from None
    chat = _chat(project, run)
    sequences = (stored.rows == number).nonzero()[0][:20]
    rows = [token_row("", dataset_tokens.seen(chat, *stored[int(i)])) for i in sequences]
    return fragment(request, "tokens.html", rows=rows)


def _chat(project: Project, run: RunFolder) -> ChatFormat:
    """The template and tokenizer of the run's model. The last one is kept: it takes half a second to read."""
    from tunesmith.models.find import find

    name = run.recipe().model.name
    kept: tuple[str, ChatFormat] | None = project.kept.get("chat")
    if kept is None or kept[0] != name:  # others may ask for another model at the same time
        kept = project.kept["chat"] = name, ChatFormat(find(name).folder)
    return kept[1]


routes = [Route("/data/{run:path}", _data), Route("/tokens/{run:path}", _tokens)]
