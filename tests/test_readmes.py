"""The documents say what is so: commands exist, the README's are run, both READMEs have the same, no link is dead."""

from __future__ import annotations

import importlib.util
import io
import json
import re

import pytest
from documents import DOCUMENTS, ROOT, inline, links, tokens, typed

from tunesmith.cli.app import WITH_SETTINGS, app, call
from tunesmith.cli.edge import exit_status
from tunesmith.cli.flags import settings_last
from tunesmith.settings import every_field, read_recipe

READMES = [ROOT / "README.md", ROOT / "README.zh.md"]


def test_both_readmes_have_the_same_commands_in_the_same_order():
    english, chinese = (typed(path.read_text("utf-8")) for path in READMES)
    assert len(english) > 8
    assert chinese == english


def test_both_readmes_map_the_same_rooms_and_prove_the_same_promises():
    english, chinese = (path.read_text("utf-8") for path in READMES)
    rooms = [set(re.findall(r"\]\((src/tunesmith/[^)]+)\)", text)) for text in (english, chinese)]
    assert rooms[1] >= rooms[0]
    assert english.count("\n| ") <= chinese.count("\n| ")
    assert english.count("\n## ") == chinese.count("\n## ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_command_in_a_document_is_one_that_exists(document):
    text = (ROOT / document).read_text("utf-8")
    for command in typed(text) + inline(text):
        if command.startswith("tunesmith ") and "…" not in command and "..." not in command:
            understood(tokens(command))


def understood(line):
    """Raises what the command line would, before anything is done; in a sentence a name alone will do."""
    name, *rest = line
    assert name in app, f"there is no command {name}"
    if any(not token.startswith("-") for token in rest):
        app.parse_args(settings_last(line) if name in WITH_SETTINGS else line, exit_on_error=False, print_error=False)
    for token in rest:
        setting = token.removeprefix("--").partition("=")[0]
        if token.startswith("--") and "." in setting:
            assert any(f"{field}.".startswith(f"{setting}.") for field in every_field()), f"there is no {setting}"


def test_a_command_that_does_not_exist_would_be_found():
    with pytest.raises(AssertionError):
        understood(["convert", "runs/x"])
    with pytest.raises(Exception, match="--too"):
        understood(["track", "runs/x", "--too", "tensorboard"])
    with pytest.raises(AssertionError):
        understood(["run", "recipe.toml", "--train.epohcs", "2"])
    assert typed("```console\n$ tunesmith chat runs/x  # talk\n```\n    echo a | tunesmith chat b\n") == [
        "tunesmith chat runs/x", "tunesmith chat b"
    ]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_leads_to_a_file(document):
    path = ROOT / document
    for link in links(path.read_text("utf-8")):
        assert (path.parent / link).exists(), link


def on_a_tiny_model(recipe, model):
    """What the person is told to say in the recipe, with a model that takes seconds instead of minutes."""
    text = recipe.read_text("utf-8").replace('name = "starter"', f"name = {json.dumps(str(model))}")
    text = text.replace("layers = 16 ", 'layers = "all"\nsteps = 2 ')
    small = (
        "[evaluate]\nmax_new_tokens = 4\nforgetting = false\n[export.proof]\ntokens = 16\nprompts = 1\nquestions = 0\n"
    )
    recipe.write_text(text + small, "utf-8")
    (recipe.parent / "documents").mkdir()
    for i in range(20):
        (recipe.parent / "documents" / f"{i}.md").write_text(f"# Note {i}\n\nIt says {i * i}, and 中文 too.\n", "utf-8")
    assert read_recipe(recipe).train.steps == 2


@pytest.mark.usefixtures("fresh_consoles")
def test_the_readmes_commands_run_in_their_order(tmp_path, tiny_model, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("/system Be brief.\n"))  # an untrained model never ends an answer
    ran = []
    for command in typed(READMES[0].read_text("utf-8")):
        line = tokens(command)
        if command.startswith("make") or line[0] in ("demo", "serve", "studio"):  # they take minutes, or serve for ever
            continue
        status = exit_status(lambda line=line: call(line))
        assert status == 0, (command, capsys.readouterr())
        ran.append(line[0])
        if line[0] == "init":
            on_a_tiny_model(tmp_path / "my-blog" / "recipe.toml", tiny_model)
    assert ran == ["init", "check", "check", "run", "compare", "chat", "export"]
    assert (tmp_path / "page.html").exists()
    assert list((tmp_path / "runs" / "my-blog" / "export").glob("*.gguf"))


def the_tool():
    spec = importlib.util.spec_from_file_location("docs_tool", ROOT / "tools" / "docs.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_every_command_has_a_page_in_step_with_its_help(tmp_path):
    tool = the_tool()
    assert tool.faults(ROOT / "docs") == []
    for name, text in tool.pages().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "commands" / "chat.md").write_text("old", "utf-8")
    (tmp_path / "commands" / "gone.md").write_text("old", "utf-8")
    assert tool.faults(tmp_path) == [
        "docs/commands/chat.md is out of step with the code; run: make docs",
        "docs/commands/gone.md is of a command that is not there; delete it",
    ]


def test_pictures_of_terminals_are_small_and_load_nothing():
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
    assert pictures
    for picture in pictures:
        text = picture.read_text("utf-8")
        assert len(text.encode()) < 60_000, picture.name
        assert not re.search(r"""(?:url\(|href=)["']?\s*(?!#)\w""", text), picture.name
        assert "@import" not in text
