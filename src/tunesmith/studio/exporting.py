"""Export: the files of a trained run, the proof that they are it, and how they come into other programs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tunesmith.errors import RecipeError, RunError
from tunesmith.export.formats import KINDS, TARGETS, USUAL, parse_formats
from tunesmith.export.proof_file import ALWAYS, broken_limits, proof_path, read_proofs, said
from tunesmith.machine import size
from tunesmith.pages.words import percent
from tunesmith.run import RunFolder
from tunesmith.studio import jobs
from tunesmith.studio.context import Missing, project_of, within
from tunesmith.studio.preferences import form_values
from tunesmith.studio.render import page, url, words

FORMATS = tuple(target for target in TARGETS if target != "ollama")
QUANTIZED = ("gguf", "lmstudio", "ollama")
"""Those that have a kind of GGUF."""
LINES = 12
"""Of a job's log."""


@dataclass(frozen=True)
class Exported:
    """A file, or a folder as one thing. ``kind``: what it is, for the words of the page."""

    name: str
    kind: str
    bytes: int
    is_file: bool


def exported(run: RunFolder) -> list[Exported]:
    """What is in the run's export folder, and the adapter itself."""
    paths = [run.adapter, *sorted(run.export.glob("[!.]*"))] if run.adapter.exists() else []
    return [Exported(path.name, _kind(path), _bytes(path), path.is_file()) for path in paths]


def _kind(path: Path) -> str:
    if path.name.endswith("-lora.gguf"):
        return "lora"
    known = {"adapter": "adapter", "merged": "merged", "Modelfile": "modelfile", "proof.json": "proof"}
    return known.get(path.name) or ("gguf" if path.suffix == ".gguf" else "mlx" if "mlx" in path.name else "other")


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _proofs(run: RunFolder) -> list[dict[str, Any]]:
    try:
        return [proof_row(proof) for proof in read_proofs(run)]
    except (KeyError, TypeError, AttributeError, ValueError):
        raise RunError(
            f"{proof_path(run)} is damaged or of another version; delete it, and `tunesmith prove` measures again"
        ) from None


def proof_row(proof: dict[str, Any]) -> dict[str, Any]:
    """One line of the table: (what was measured, the limit that it broke) of every number."""
    checks = proof["checks"]
    model = next((check for check in checks if check["name"] == "model"), {})
    broken = {b["number"]: b["limit"] for b in model.get("broken", ())}
    measured, task = model.get("measured", {}), proof.get("task")
    return {
        "gguf": proof["gguf"], "holds": proof["holds"], "held": sum(c["holds"] for c in checks), "checks": len(checks),
        "numbers": [(number, said(number, measured), broken.get(number, "")) for number in ALWAYS],
        "task": f"{task['kind']} {percent(task['score'])}" if task else "",
        "faults": [", ".join(broken_limits(c)) or c.get("means", c["name"]) for c in checks if not c["holds"]],
        "causes": [cause["sentence"] for cause in proof["causes"]],
    }  # fmt: skip


def _run(request: Request) -> RunFolder:
    return project_of(request).run(request.path_params["run"])


def _show(request: Request) -> Response:
    project, run, t = project_of(request), _run(request), words(request)
    files, at_work = exported(run), jobs.running(run.path)
    place = shlex.quote(run.path.relative_to(project.folder).as_posix())
    ended = not at_work and jobs.doing(run.path) == "export"
    return page(
        request, "export.html", title=t("export.title"), tab="export", run=run, files=files, size=size, at_work=at_work,
        exporting=at_work and jobs.doing(run.path) == "export", stopping=jobs.stopping(run.path),
        log="\n".join(jobs.log_lines(run.path)[-LINES:]), said=jobs.said(run.path) if ended else "", ended=ended,
        proofs=_proofs(run), numbers=ALWAYS, formats=FORMATS, kinds=KINDS,
        usual=USUAL, ollama=_ollama_name(run), commands=_commands(place, files),
    )  # fmt: skip


def _ollama_name(run: RunFolder) -> str:
    """The run's name as Ollama takes it."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in run.path.name.lower())
    return kept.strip("-_.") or "my-model"


def _commands(place: str, files: list[Exported]) -> list[tuple[str, str]]:
    """(what it does, the command) for the terminal, in the project's folder."""
    ggufs = [file.name for file in files if file.kind == "gguf"]
    talk = [("chat_file", f"tunesmith chat {place}/export/{shlex.quote(ggufs[0])}")] if ggufs else []
    return [
        ("make", f"tunesmith export {place}"), ("chat", f"tunesmith chat {place}"), *talk,
        ("serve", f"tunesmith serve {place}"), ("publish", f"tunesmith publish {place} --to hf:OWNER/NAME"),
    ]  # fmt: skip


async def _do(request: Request) -> Response:
    """A button is pressed: make one of the formats, or stop."""
    run, form = _run(request), await form_values(request)
    if form.get("do") == "stop":
        jobs.stop(run.path)
    else:
        await run_in_threadpool(_make, run, form)
    return RedirectResponse(url("export", project_of(request).name_of(run)), 303)


def _make(run: RunFolder, form: dict[str, str]) -> None:
    """Raises `RecipeError` or `ModelError` for what cannot be made, before anything is started."""
    to, quant, name = form.get("to", ""), form.get("quant", USUAL), form.get("name", "").strip()
    quantized = [f"gguf:{quant}"] if to in QUANTIZED else []
    if to not in TARGETS:
        raise RecipeError(f"{to!r} is no format; choose one of the list")
    parse_formats((*quantized, f"ollama:{name}" if to == "ollama" else to))
    options = ["--to", to, *(["--quant", quant] if quantized else [])]
    jobs.begin(run.path, ["export", str(run.path), *([name] if to == "ollama" else []), *options])


def _state(request: Request) -> Response:
    run = _run(request)
    return JSONResponse({"over": not jobs.running(run.path), "said": jobs.log_lines(run.path)[-LINES:]})


def _file(request: Request) -> Response:
    run, name = _run(request), request.query_params.get("name", "")
    path = within(run.export, name, f"there is no file {name} in the export of {run.path.name}")
    if not path.is_file():
        raise Missing(f"there is no file {name} in the export of {run.path.name}")
    return FileResponse(path, filename=path.name, media_type="application/octet-stream")


routes = [
    Route("/export/{run:path}", _show),
    Route("/export/{run:path}", _do, methods=["POST"]),
    Route("/export-state/{run:path}", _state),
    Route("/export-file/{run:path}", _file),
]
