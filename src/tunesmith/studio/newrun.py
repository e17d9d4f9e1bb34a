"""New run: a model, some files and the few settings that matter become a recipe, which is checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tunesmith.errors import TunesmithError
from tunesmith.machine import size
from tunesmith.settings import every_field
from tunesmith.studio import checked, recipes, uploads
from tunesmith.studio.context import UPLOADS, Project, project_of
from tunesmith.studio.recipes import CHOSEN, Draft
from tunesmith.studio.render import page, url, words

OTHER = "other"
"""The choice of the form for a model that is not in its list."""
LISTED = 200
"""Files and folders that are proposed at most."""


def _form(request: Request) -> Response:
    project = project_of(request)
    if recipe := request.query_params.get("recipe"):
        return RedirectResponse(url("recipe", recipe), 303)
    draft = recipes.read_draft(project.folder, request.query_params.get("from", ""))
    if draft is None:
        draft = Draft(recipes.free_name(project.folder))
    elif recipes.run_of(project.folder, project.folder / draft.name / "recipe.toml").exists:
        draft = replace(draft, name=recipes.free_name(project.folder, draft.name))  # another one like it
    return _show(request, draft, _fields(draft))


def _fields(draft: Draft) -> dict[str, str]:
    """The settings of a recipe as the form has them; those that are as usual are left empty."""
    known = every_field()
    return {
        name: str(draft.settings[name]) for name in CHOSEN if draft.settings.get(name, known[name][0]) != known[name][0]
    }


def _show(request: Request, draft: Draft, fields: Mapping[str, str], fault: str = "") -> Response:
    project, known = project_of(request), every_field()
    models, dropped = recipes.models_here(project.folder), uploads.uploaded(project.folder)
    files = [(f"{UPLOADS}/{path.name}", size(path.stat().st_size)) for path in dropped]
    listed = {name for name, _ in files}
    return page(
        request, "newrun.html", title=words(request)("new.title"), tab="new", status=422 if fault else 200,
        draft=draft, fields=fields, fault=fault, models=models, files=files, proposed=_proposed(project),
        other="" if any(draft.model == model.name for model in models) else draft.model,
        more="\n".join(source for source in draft.sources if source not in listed),
        settings=[(name, known[name][0], recipes.help_of(name, words(request).language)) for name in CHOSEN],
    )  # fmt: skip


def _proposed(project: Project) -> list[str]:
    """What lies in the project's folder, to be named as a source."""
    entries = [path for path in project.folder.glob("[!.]*") if path.name not in recipes.RESERVED]
    return sorted(path.name + ("/" if path.is_dir() else "") for path in entries)[:LISTED]


async def _ask(request: Request) -> Response:
    """The form is sent: write the recipe and check it, or say what is wrong with the form."""
    project = project_of(request)
    sent = parse_qs((await request.body()).decode("utf-8", "replace"), keep_blank_values=True)
    fields = {name: values[-1] for name, values in sent.items()}
    draft = _draft(sent, fields)

    def write() -> Response:
        try:
            draft.check(project.folder)
            recipe = recipes.write_draft(project.folder, draft)
            checked.begin(project.folder, recipe)
        except TunesmithError as error:
            return _show(request, draft, fields, str(error))
        return RedirectResponse(url("recipe", recipe.relative_to(project.folder).as_posix()), 303)

    return await run_in_threadpool(write)


def _draft(sent: Mapping[str, list[str]], fields: Mapping[str, str]) -> Draft:
    model = fields.get("model", "starter")
    named = [line.strip() for line in fields.get("more", "").splitlines()]
    sources = dict.fromkeys([*sent.get("source", []), *(line for line in named if line)])
    return Draft(
        fields.get("name", "").strip(), fields.get("other", "").strip() if model == OTHER else model, tuple(sources),
        recipes.parse_settings({name: fields.get(name, "") for name in CHOSEN}),
    )  # fmt: skip


async def _upload(request: Request) -> Response:
    """A file is dropped: its bytes are the body."""
    kept = await uploads.keep(request.stream(), project_of(request).folder, request.path_params["name"])
    status: dict[str, Any] = {"path": f"{UPLOADS}/{kept.name}", "size": size(kept.stat().st_size)}
    return JSONResponse(status, 201)


routes = [
    Route("/new", _form),
    Route("/new", _ask, methods=["POST"]),
    Route("/uploads/{name:path}", _upload, methods=["PUT"]),
]
