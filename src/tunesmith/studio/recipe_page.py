"""A recipe: its text, what `check` finds, and the button that starts it."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tunesmith.errors import RecipeError
from tunesmith.machine import size
from tunesmith.settings import make_recipe
from tunesmith.studio import checked, jobs, recipes
from tunesmith.studio.context import Missing, project_of, within
from tunesmith.studio.numbers import duration
from tunesmith.studio.preferences import form_values
from tunesmith.studio.render import page, url, words

CHECK_POLICY = "sandbox allow-scripts; frame-ancestors 'none'"
"""The page of `check` brings a policy of its own, which allows its own style and script. Here it has no origin: it
could ask the studio nothing even if a row of the data had found a way to be run."""


def _recipe(request: Request) -> Path:
    """The recipe file that the address names."""
    project, name = project_of(request), request.path_params["name"]
    path = within(project.folder, name, f"there is no recipe {name}")
    if path not in project.recipes():
        raise Missing(f"there is no recipe {name} in the project's folder; the home page lists those that are there")
    return path


def _show(request: Request) -> Response:
    project, recipe, t = project_of(request), _recipe(request), words(request)
    name = recipe.relative_to(project.folder).as_posix()
    run = recipes.run_of(project.folder, recipe)
    draft = recipes.read_draft(project.folder, recipe.parent.name) if recipe.name == "recipe.toml" else None
    return page(
        request, "recipe.html", title=run.path.name, tab="new", recipe=name, text=_text(recipe), size=size,
        duration=lambda seconds: duration(seconds, t), command=f"tunesmith run {shlex.quote(name)}",
        found=checked.look(project.folder, recipe), change=draft.name if draft else "",
        began=run.exists, run_called=run.path.name, starting=not run.exists and jobs.running(run.path),
        failed="" if run.exists else jobs.said(run.path),
    )  # fmt: skip


def _text(recipe: Path) -> str:
    try:
        return recipe.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RecipeError(f"{recipe.name} cannot be read ({error.strerror}); look at its permissions") from None


async def _do(request: Request) -> Response:
    """A button is pressed: check, stop, fit (take the settings that fit), or start."""
    project, recipe = project_of(request), _recipe(request)
    wanted = (await form_values(request)).get("do", "")
    actions = {"check": checked.begin, "stop": _stop, "fit": _take_fitting, "start": _start}
    if wanted in actions:
        await run_in_threadpool(actions[wanted], project.folder, recipe)
    return RedirectResponse(url("recipe", recipe.relative_to(project.folder).as_posix()), 303)


def _stop(project: Path, recipe: Path) -> None:
    jobs.end(checked.place_of(project, recipe))


def _start(project: Path, recipe: Path) -> None:
    """The run is a process of its own from now on."""
    jobs.end(checked.place_of(project, recipe))  # two of them would share the machine
    jobs.start(recipe, recipes.run_of(project, recipe).path)


def _take_fitting(project: Path, recipe: Path) -> None:
    """Change the recipe to what fits into memory, and check it again. Raises `RecipeError`."""
    found, draft = checked.look(project, recipe), recipes.read_draft(project, recipe.parent.name)
    if found.state != "done" or not found.fit or draft is None:
        raise RecipeError("nothing is known of what would fit, or the recipe is one of your own; change it by hand")
    changed = replace(draft, settings={**draft.settings, **found.fit["changes"]})
    make_recipe(tomllib.loads(changed.text()), where=recipe.name, folder=recipe.parent)
    recipes.write_draft(project, changed)
    checked.begin(project, recipe)


def _state(request: Request) -> Response:
    """How far the check or the start is, for the script of the page: it loads the page anew when ``over``."""
    project, recipe, t = project_of(request), _recipe(request), words(request)
    run = recipes.run_of(project.folder, recipe)
    if "start" in request.query_params:
        over = run.exists or not jobs.running(run.path)
        lines = jobs.log_lines(run.path)
        return JSONResponse({"over": over, "go": url("run", run.path.name) if run.exists else "", "said": lines[-1:]})
    found = checked.look(project.folder, recipe)
    return JSONResponse({"over": found.state != "running", "said": [found.said], "time": duration(found.seconds, t)})


def _file(request: Request) -> Response:
    recipe = _recipe(request)
    return FileResponse(recipe, media_type="application/toml", filename=recipe.name)


def _page_of_check(request: Request) -> Response:
    recipe = _recipe(request)
    path = checked.place_of(project_of(request).folder, recipe) / "page.html"
    if not path.is_file():
        raise Missing("this recipe is not checked yet; its page has the button")
    headers = {"Content-Security-Policy": CHECK_POLICY}
    return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


routes = [
    Route("/recipe/{name:path}", _show),
    Route("/recipe/{name:path}", _do, methods=["POST"]),
    Route("/recipe-state/{name:path}", _state),
    Route("/recipe-file/{name:path}", _file),
    Route("/recipe-check/{name:path}", _page_of_check),
]
