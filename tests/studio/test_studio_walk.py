"""What a new user does, in a real browser: from the empty home page to a run that is compared and exported."""

import csv
import shutil
import sys
from pathlib import Path

import pytest
from test_studio_browser import LANGUAGES, NAMELESS, browser, page, speak  # noqa: F401 (two are fixtures)

from tunesmith.studio import answering as models
from tunesmith.studio import jobs
from tunesmith.studio.app import guarded, make_app
from tunesmith.studio.context import Project

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

EVIL = "<img src=x onerror=alert(1)>"
PATIENT = 200_000
"""Milliseconds that another process may take on a busy machine. All of it takes half a minute on an idle one."""


@pytest.fixture
def studio(tmp_path, tiny_model, monkeypatch):
    """Over a folder in which there is nothing but a model."""
    from served import answering

    monkeypatch.setattr(jobs, "PROGRAM", [sys.executable, str(Path(__file__).with_name("quick_tunesmith.py"))])
    monkeypatch.setattr(models, "MOST_TOKENS", 24)  # it would never come to an end
    shutil.copytree(tiny_model, tmp_path / "project" / "models" / "tiny")
    project = Project(tmp_path / "project", jobs)
    with answering(guarded(make_app(project))) as url:
        yield url
        project.stop()
        for run in project.runs():
            jobs.end(run.path)


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "常见问题.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer"])
        rows.writerows([f"{n} 加 {n} 等于几？ {EVIL}", f"等于 {2 * n}。"] for n in range(20))
    return path


@pytest.mark.timeout(1200)
def test_from_an_empty_folder_to_a_finished_run_that_is_compared_and_exported(studio, questions, page, tmp_path):  # noqa: F811
    page.set_default_timeout(PATIENT)
    page.goto(studio)
    page.get_by_role("link", name="Begin a new run").click()

    page.get_by_label("Name", exact=True).fill("走一遍")
    page.get_by_label("models/tiny").check()
    page.locator("#files").set_input_files(questions)
    page.get_by_label("常见问题.csv").wait_for()
    page.get_by_label("Epochs").fill("1")
    page.get_by_role("button", name="Look at the data").click()

    page.get_by_role("button", name="Start training").wait_for()
    assert "20 inputs" in page.inner_text("main")
    assert EVIL in page.inner_text("summary >> nth=0")
    page.get_by_role("button", name="Start training").click()

    page.wait_for_url("**/run/*")
    page.get_by_text("finished", exact=True).first.wait_for()

    page.get_by_role("link", name="Compare").click()
    page.locator(".proposed button").first.click()
    assert EVIL in page.get_by_label("Your question").input_value()
    page.get_by_label("Your question").fill(f"{EVIL}?")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="No difference").click()
    page.get_by_text("Tuned 0, base 0, no difference 1.").wait_for()
    assert {page.inner_text("#left"), page.inner_text("#right")} == {"Base", "Tuned"}

    page.get_by_role("link", name="Export").click()
    page.locator("#make").locator("..").get_by_label("Weights").select_option("f16")
    page.get_by_role("button", name="Make it").click()
    page.get_by_role("link", name="走一遍-f16.gguf").wait_for()
    page.get_by_role("heading", name="Proof").wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="走一遍-f16.gguf").click()
    assert download.value.path().read_bytes()[:4] == b"GGUF"

    page.get_by_role("link", name="Runs").click()
    page.get_by_role("row", name="走一遍").filter(has_text="finished").wait_for()
    assert page.locator("img").count() == 0
    for path in ("/new", "/recipe/走一遍/recipe.toml", "/compare/走一遍", "/export/走一遍"):
        page.goto(studio + path)
        for language in LANGUAGES:
            speak(page, language)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
            assert page.evaluate(NAMELESS) == [], path
    assert (tmp_path / "project" / "runs" / "走一遍" / "adapter" / "adapter_config.json").exists()
