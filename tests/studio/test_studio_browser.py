"""The pages in a real browser: nothing is loaded from elsewhere, a new point is on screen at once, a phone is wide
enough. And what each of them weighs and takes."""

import json
import re
import sys
import time
from pathlib import Path

import pytest
from projects import client_of, step, write_run
from test_studio_home import ENDED, RESULTS, TRAINED
from test_studio_rows import row, write_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

CHROMIUM = Path("/usr/bin/chromium")
LONG = 100_000
MOST_BYTES = 200_000
LANGUAGES = {"中文": "zh", "English": "en"}
PAGES = ("/", "/run/long", "/data/long", "/evaluation/long")
START = {"event": "start", "stage": "train", "step": 0, "steps": LONG}
NAMELESS = """
[...document.querySelectorAll("a, button, input:not([type=hidden]), select, progress, iframe")]
  .filter(e => !(e.textContent.trim() || e.getAttribute("aria-label") || e.title || e.labels?.length))
  .map(e => e.outerHTML)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """50 runs; one of them took 100,000 steps, and its rows are long."""
    folder = tmp_path_factory.mktemp("project")
    for number in range(49):
        write_run(
            folder, f"run-{number}", [START, *(step(n, LONG) for n in range(1, 100)), *ENDED[-1:]], TRAINED, RESULTS
        )
    long = write_run(folder, "long", [START], TRAINED, RESULTS)
    line = json.dumps(step(7_654_321, LONG, loss=1.25)) + "\n"
    before, after = line.split("7654321", 1)
    with (long / "progress.jsonl").open("a") as file:
        file.writelines(f"{before}{n}{after}" for n in range(1, LONG + 1))
    write_dataset(long, [row(n, "为什么？" * 300, "Because. " * 300) for n in range(60)])
    (long / "evaluation" / "report.html").write_text("<!DOCTYPE html><title>report</title><h1>What it learned</h1>")
    return folder


def test_a_page_is_small_with_all_that_it_loads_and_there_at_once(project):
    """html + css + js, uncompressed; of a run the points besides. 0.03 s of this process, which other processes of a
    busy machine do not count to."""
    client = client_of(project)
    for path in PAGES:
        html = client.get(path).text
        loaded = [
            *re.findall(r'(?:<link[^>]*href|<script[^>]*src)="([^"]*)"', html),
            *re.findall(r'data-points="([^"]*)"', html),
        ]
        size = len(html.encode()) + sum(len(client.get(address).content) for address in loaded)
        assert size <= MOST_BYTES, f"{path} has {size:,} bytes"
        began = time.process_time()
        client.get(path)
        assert time.process_time() - began < 0.3, path


@pytest.fixture(scope="module")
def studio(project):
    from served import answering

    from tunesmith.serving.guard import LOOPBACK, Guard
    from tunesmith.studio.app import make_app
    from tunesmith.studio.context import Project

    jobs = client_of(project).jobs
    jobs.at_work = {"long"}
    shown = Project(project, jobs)
    with answering(Guard(make_app(shown), hosts=LOOPBACK)) as url:
        yield url
        shown.stop()


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=str(CHROMIUM))
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 360, "height": 800})
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert said == []  # the policy was not broken, and no script failed


def speak(page, language):
    """Change the language. A click does not wait for the page that it leads to, and whatever comes next would meet it
    half way."""
    page.get_by_role("button", name=language).click()
    page.wait_for_selector(f'html[lang="{LANGUAGES[language]}"]')


def test_a_new_point_is_on_screen_without_being_asked_for(project, studio, page):
    """Within 0.5 s on an idle machine. How long a busy one takes says nothing: no other way leads it there."""
    page.goto(f"{studio}/run/long")
    page.wait_for_selector(f'#charts[data-last="{LONG}"]', timeout=20_000)
    assert page.locator("#charts canvas").count() == 5
    with (project / "runs" / "long" / "progress.jsonl").open("a") as file:
        file.write(json.dumps(step(LONG + 1, LONG + 5)) + "\n")
        file.write(json.dumps({"event": "note", "message": "<img src=x onerror=alert(1)>"}) + "\n")
    page.wait_for_selector(f'#charts[data-last="{LONG + 1}"]', timeout=20_000)
    page.locator("#step", has_text=f"{LONG + 1:,}").wait_for()
    assert page.locator("#log li").last.inner_text().endswith("<img src=x onerror=alert(1)>")
    assert page.locator("#log img").count() == 0
    assert "training loss: " in page.locator(".large .plot").get_attribute("aria-label")


def test_home_moves_with_the_runs(project, studio, page):
    page.clock.install()
    page.goto(studio)
    with (project / "runs" / "long" / "progress.jsonl").open("a") as file:
        file.write(json.dumps(step(LONG + 2, LONG + 5)) + "\n")
    page.clock.run_for(4000)
    page.locator("tr", has_text=f"{LONG + 2:,}/{LONG + 5:,}").wait_for()


def test_a_phone_is_wide_enough_in_both_languages(studio, page):
    for language in LANGUAGES:
        page.goto(studio)
        speak(page, language)
        for path in PAGES:
            page.goto(studio + path, wait_until="domcontentloaded")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def test_the_keyboard_is_enough(studio, page):
    page.goto(studio)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("button", name="Change to light ones").press("Enter")
    page.wait_for_selector('html[data-theme="light"]')
    page.goto(f"{studio}/data/long")
    page.get_by_label("with this text").fill("nowhere to be found")
    page.keyboard.press("Enter")
    page.get_by_text("No row is like that").wait_for()


def test_every_control_has_a_name(studio, page):
    for path in PAGES:
        page.goto(studio + path, wait_until="domcontentloaded")
        nameless = page.evaluate(NAMELESS)
        assert nameless == [], path
