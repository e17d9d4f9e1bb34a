"""New run: what the form asks for becomes a recipe, which is checked, shown and started."""

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from markupsafe import escape
from projects import client_of, write_run
from starlette.testclient import TestClient
from test_studio_jobs import until

from tunesmith.settings import every_field, read_recipe
from tunesmith.studio import checked, jobs
from tunesmith.studio.app import guarded
from tunesmith.studio.recipes import CHOSEN, Draft, help_of, models_here, read_draft, write_draft

EVIL = "<script>alert(1)</script>"
ANSWER = {
    "report": {
        "inputs": 12, "divided": 0, "rows": {"train": 10, "valid": 1, "test": 1}, "quarantined": 0, "merged": 0,
        "removed": 0, "tokens": {"train": 900, "learned": 300, "longest": 90},
        "findings": [{"severity": "warning", "message": f"2 rows hold {EVIL}"}],
    },
    "samples": [{"origin": "uploads/faq.csv:2", "question": EVIL, "tokens": [[EVIL, True, False]]}],
    "fit": {
        "fits": True, "needed": {"total": 2_000_000_000}, "available": 8_000_000_000, "measured": None, "seconds": 90.0,
        "states": 0, "checkpoints": 5_000_000, "disk_free": 50_000_000_000, "changes": {},
    },
}  # fmt: skip
FAKE = """
import json, sys
answer = json.loads({answer!r})
print(json.dumps(answer)) if answer else sys.exit("tunesmith: there is no model 'models/tiny'; give another")
"""


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a file; `tunesmith` answers at once what `say` told it."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny").symlink_to(tiny_model)
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "faq.csv").write_text("question,answer\n")
    say(monkeypatch, ANSWER)
    return tmp_path


def say(monkeypatch: pytest.MonkeyPatch, answer) -> None:
    monkeypatch.setattr(jobs, "PROGRAM", [sys.executable, "-c", FAKE.format(answer=json.dumps(answer))])


def sent(**changes: str | list[str]) -> dict[str, str | list[str]]:
    return {"name": "one", "model": "models/tiny", "source": "uploads/faq.csv", "train.epochs": "2", **changes}


def looked(client, project: Path, name: str = "one/recipe.toml"):
    until(lambda: checked.look(project, project / name).state not in ("none", "running"))
    return client.get(f"/recipe/{name}")


def test_the_form_becomes_a_recipe_that_runs_the_same_in_a_terminal(project):
    answer = client_of(project).post(
        "/new", data=sent(more="models\n", **{"train.layers": "all"}), follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/recipe/one/recipe.toml")
    recipe = read_recipe(project / "one" / "recipe.toml")
    assert Path(recipe.model.name) == (project / "models" / "tiny").resolve()
    assert [source.path for source in recipe.data.sources] == ["uploads/faq.csv", "models"]
    assert recipe.folder() == project.resolve()
    assert (recipe.train.epochs, recipe.train.batch) == (2, 8)
    looked(client_of(project), project)


def test_what_check_finds_is_on_the_page_and_html_in_it_is_text(project):
    client = client_of(project)
    client.post("/new", data=sent())
    page = looked(client, project).text
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 3  # a finding, a row's beginning, its token
    for said in ("12 inputs", "worth a look", "2.0 GB", "1 min 30 s", "Start training"):
        assert said in page
    assert "开始训练" in client.get("/recipe/one/recipe.toml", headers={"accept-language": "zh-CN"}).text
    assert client.get("/recipe-state/one/recipe.toml").json()["over"]
    assert client.get("/recipe-file/one/recipe.toml").text == (project / "one" / "recipe.toml").read_text()


def test_a_check_that_fails_says_its_sentence(project, monkeypatch):
    say(monkeypatch, None)
    client = client_of(project)
    client.post("/new", data=sent())
    page = looked(client, project).text
    assert "there is no model" in page
    assert "Start training" not in page


def test_settings_that_fit_are_taken_with_one_click(project, monkeypatch):
    fit = {**ANSWER["fit"], "fits": False, "changes": {"train.layers": 4, "data.max_tokens": 256}}
    say(monkeypatch, {**ANSWER, "fit": fit})
    client = client_of(project)
    client.post("/new", data=sent())
    page = looked(client, project).text
    assert "Start training" not in page
    assert "train.layers = 4" in page
    client.post("/recipe/one/recipe.toml", data={"do": "fit"})
    recipe = read_recipe(project / "one" / "recipe.toml")
    assert (recipe.train.layers, recipe.data.max_tokens, recipe.train.epochs) == (4, 256, 2)
    looked(client, project)


def test_a_changed_recipe_is_not_judged_by_the_check_of_the_old_one(project):
    client = client_of(project)
    client.post("/new", data=sent())
    assert "Start training" in looked(client, project).text
    with (project / "one" / "recipe.toml").open("a") as file:
        file.write("# by hand\n")
    page = client.get("/recipe/one/recipe.toml").text
    assert "Start training" not in page
    assert "Check it" in page


def test_start_begins_the_run_of_that_name(project, monkeypatch):
    client, started = client_of(project), []
    client.post("/new", data=sent())
    looked(client, project)
    monkeypatch.setattr(jobs, "start", lambda recipe, run: started.append((recipe, run)))
    client.post("/recipe/one/recipe.toml", data={"do": "start"})
    assert started == [(project / "one" / "recipe.toml", project / "runs" / "one")]


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"name": "../one"}, "cannot be a name"),
    ({"name": "Runs"}, "the name of a folder that is needed"),
    ({"name": ""}, "give it one"),
    ({"source": []}, "nothing to learn from"),
    ({"source": "../../etc/passwd"}, "not inside the project"),
    ({"more": "no such folder"}, "no such folder"),
    ({"model": "other", "other": "/etc/passwd"}, "there is no model"),
    ({"model": "gpt-5"}, "there is no model"),
    ({"model": "other", "other": "~nobody-here/model"}, "there is no model"),
    ({"train.epochs": "0"}, "train.epochs"),
    ({"train.layers": "some"}, "train.layers"),
])  # fmt: skip
def test_a_fault_is_one_sentence_above_the_form_which_keeps_what_was_typed(project, changes, sentence):
    answer = client_of(project).post("/new", data=sent(**{"train.batch": "5", **changes}))
    assert answer.status_code == 422
    assert sentence in answer.text
    assert 'value="5"' in answer.text
    assert not list(project.glob("*/recipe.toml"))


def test_a_recipe_of_somebodys_own_is_never_overwritten(project):
    (project / "one").mkdir()
    (project / "one" / "recipe.toml").write_text("# mine\n")
    answer = client_of(project).post("/new", data=sent())
    assert answer.status_code == 422
    assert "choose another name" in answer.text
    assert (project / "one" / "recipe.toml").read_text() == "# mine\n"


def test_a_recipe_of_the_page_comes_back_into_the_form_as_it_was(project):
    draft = Draft(
        "一号", "hf:me/model", ("uploads/faq.csv", 'a "b".csv'), {"train.learning_rate": 1e-5, "train.layers": 4}
    )
    path = write_draft(project, draft)
    assert read_draft(project, "一号") == Draft(
        "一号", draft.model, draft.sources, {name: every_field()[name][0] for name in CHOSEN} | dict(draft.settings)
    )
    assert tomllib.loads(path.read_text())["data"]["sources"] == list(draft.sources)
    page = client_of(project).get("/new?from=一号").text
    assert 'value="1e-05"' in page
    assert 'value="hf:me/model"' in page
    assert shlex.quote("一号/recipe.toml") in draft.text()


@pytest.mark.parametrize(
    "name", ["..%2fsecret.toml", "%2fetc/passwd", "uploads/faq.csv", "one/../../secret.toml", "nothing"]
)
def test_only_recipes_of_the_project_have_a_page(project, name):
    (project.parent / "secret.toml").write_text("secret")
    for page in ("recipe", "recipe-file", "recipe-state", "recipe-check"):
        answer = client_of(project).get(f"/{page}/{name}")
        assert answer.status_code == 404
        assert "secret" not in answer.text.replace("secret.toml", "")


@pytest.mark.parametrize("name", ["../other", "linked", "..", "one/../../other"])
def test_the_form_begins_with_no_recipe_from_outside(project, name):
    draft = Draft("linked", "hf:somebody/secret", ("uploads/faq.csv",))
    (project.parent / "other").mkdir(exist_ok=True)
    (project.parent / "other" / "recipe.toml").write_text(draft.text())
    (project / "linked").symlink_to(project.parent / "other")
    assert "secret" not in client_of(project).get("/new", params={"from": name}).text


def test_a_recipe_that_has_run_begins_another_one_like_it(project):
    client = client_of(project)
    client.post("/new", data=sent())
    looked(client, project)
    write_run(project, "one")
    page = client.get("/new?from=one").text
    assert 'value="one-2"' in page
    assert 'value="2"' in page  # the epochs


def test_pages_of_others_can_neither_send_files_nor_start_anything(project):
    client = TestClient(guarded(client_of(project).app), base_url="http://127.0.0.1:8765")
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert client.put("/uploads/evil.csv", content="x", headers=headers).status_code == 403
        assert client.post("/new", data=sent(), headers=headers).status_code == 403
    assert [path.name for path in (project / "uploads").iterdir()] == ["faq.csv"]
    assert not (project / "one").exists()


def test_only_a_dropped_file_may_be_large(project):
    client = TestClient(guarded(client_of(project).app), base_url="http://localhost:8765")
    large = b"x" * 11_000_000
    assert client.put("/uploads/large.txt", content=large).status_code == 201
    assert client.post("/new", content=large).status_code == 413


def test_what_is_dropped_is_data_and_never_a_recipe(project):
    client = client_of(project)
    assert client.put("/uploads/recipe.toml", content='[data]\nsources = ["faq.csv"]\n').status_code == 201
    assert client.get("/recipe/uploads/recipe.toml").status_code == 404
    assert client.post("/recipe/uploads/recipe.toml", data={"do": "start"}).status_code == 404


def test_a_page_with_all_that_it_loads_is_small(project):
    """html + css + js, uncompressed."""
    client = client_of(project)
    client.post("/new", data=sent())
    looked(client, project)
    (write_run(project, "one") / "adapter").mkdir()
    for path in ("/new", "/recipe/one/recipe.toml", "/compare/one", "/export/one"):
        html = client.get(path).text
        loaded = re.findall(r'(?:<link[^>]*href|<script[^>]*src)="([^"]*)"', html)
        assert len(loaded) >= 4, path
        assert len(html.encode()) + sum(len(client.get(address).content) for address in loaded) < 50_000, path


def test_the_page_of_a_check_has_no_origin_of_ours(project):
    client = client_of(project)
    client.post("/new", data=sent())
    looked(client, project)
    (checked.place_of(project, project / "one" / "recipe.toml") / "page.html").write_text("<p>page</p>")
    answer = client.get("/recipe-check/one/recipe.toml")
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts; frame-ancestors 'none'"


def test_each_setting_of_the_form_is_explained_in_both_languages(project):
    english, chinese = (client_of(project, **{"accept-language": name}).get("/new").text for name in ("en", "zh"))
    for name in CHOSEN:
        assert escape(every_field()[name][1]) in english
        assert escape(help_of(name, "zh")) in chinese


def test_ggufs_of_one_name_are_told_apart_and_those_that_are_gone_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    for number in range(3):
        folder = tmp_path / "cache" / "models" / f"model-{number:016x}-v2"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "weights.gguf").symlink_to(tmp_path / f"{number}" / "model.gguf")
        if number < 2:
            (tmp_path / f"{number}").mkdir()
            (tmp_path / f"{number}" / "model.gguf").write_bytes(b"GGUF")
    found = [model.label for model in models_here(tmp_path / "project") if model.kind == "imported"]
    assert found == [f"model · {tmp_path / '0'}", f"model · {tmp_path / '1'}"]
