"""What every page has in common: languages, colours, the policy, what is refused."""

import re
import string
import threading
from html import unescape

import pytest
from projects import client_of, step, write_run

from tunesmith.studio.words import LANGUAGES, preferred, words_of

PAGES = ["/", "/run/a", "/data/a", "/evaluation/a", "/compare/a", "/export/a", "/new"]
OF_A_RUN = ("run", "points", "events", "data", "tokens", "evaluation", "report", "compare", "export", "export-state",
            "export-file")  # fmt: skip
URL = "http://127.0.0.1:8765"


@pytest.fixture
def client(tmp_path):
    write_run(tmp_path, "a", [step(1)])
    return client_of(tmp_path)


def fields(text):
    return (name for _, name, _, _ in string.Formatter().parse(text) if name)


@pytest.mark.parametrize("language", set(LANGUAGES) - {"en"})
def test_every_text_is_there_in_every_language_and_asks_for_nothing_that_it_is_not_given(language):
    english, other = words_of("en").texts, words_of(language).texts
    assert english.keys() == other.keys()
    assert [key for key in english if not set(fields(other[key])) <= set(fields(english[key]))] == []


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB", "en"),
        ("fr, zh;q=0.2", "zh"),
        ("de", "en"),
        ("", "en"),
        ("zh;q=x", "en"),
    ],
)
def test_the_browser_says_which_language(accepted, language):
    assert preferred(accepted) == language


def test_a_choice_of_language_and_colours_is_kept(client):
    assert '<html lang="en" data-theme="auto">' in client.get("/").text
    answer = client.post("/preferences", data={"language": "zh", "back": "/run/a?x=1"})
    assert answer.url.path == "/run/a"
    assert '<html lang="zh" data-theme="auto">' in answer.text
    assert '<html lang="zh" data-theme="dark">' in client.post("/preferences", data={"theme": "dark"}).text


def test_a_choice_leads_back_to_its_page_whatever_that_is_called(tmp_path):
    write_run(tmp_path, "50%41?")
    page = client_of(tmp_path).get("/run/50%252541%3F?x=1").text  # the test client decodes it twice
    assert 'name="back" value="/run/50%2541%3F?x=1"' in page


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"])
def test_a_choice_never_leads_to_another_site(client, back):
    answer = client.post("/preferences", data={"language": "zh", "back": back}, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_every_answer_lets_in_no_script_of_others(client):
    for path in (*PAGES, "/points/a", "/nothing", "/run/nothing", "/static/x/studio.css"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), path
        assert "frame-ancestors 'none'" in policy, path
        assert headers["x-content-type-options"] == "nosniff", path


def test_a_page_has_no_script_or_style_in_it_and_loads_only_from_here(client):
    for path in PAGES:
        html = client.get(path).text
        assert not re.findall(r"<style|\sstyle=|\son\w+=|javascript:", html), path
        scripts = re.findall("<script[^>]*>", html)
        assert all('src="/static/' in tag or 'type="application/json"' in tag for tag in scripts), path
        loaded = re.findall(r'(?:<link[^>]*href|<script[^>]*src|<iframe[^>]*src)="([^"]*)"', html)
        assert loaded, path
        for address in loaded:
            assert address.startswith("/")
            assert client.get(address).status_code == 200, address


def test_what_is_static_may_be_kept_for_ever_under_a_name_that_changes_with_it(client):
    (address,) = re.findall(r'href="(/static/[^"]*studio.css)"', client.get("/").text)
    assert "immutable" in client.get(address).headers["cache-control"]
    assert client.get("/static/000000000000/studio.css").headers["cache-control"] == "no-store"
    assert client.get(address.replace("studio.css", "../app.py")).status_code == 404


@pytest.mark.parametrize(
    "name",
    ["%2e%2e", "..%2fsecret", "%2e%2e%2fsecret", "%2fetc", "a%2f..%2f..%2fsecret", "out", "%00", "x" * 300, "%2e"],
)
def test_a_run_outside_of_the_folder_is_not_there(tmp_path, name):
    outside = write_run(tmp_path / "elsewhere", "secret")
    write_run(tmp_path / "project", "a")
    (tmp_path / "project" / "secret").symlink_to(outside)
    (tmp_path / "project" / "runs" / "out").symlink_to(outside)
    client = client_of(tmp_path / "project")
    for page in OF_A_RUN:
        assert client.get(f"/{page}/{name}").status_code == 404, page
    for deed in ("stop", "continue", "compare-ask", "compare-vote", "export"):
        assert client.post(f"/{deed}/{name}").status_code == 404, deed
    assert "out" not in re.findall(r'href="/run/([^"]*)"', client.get("/").text)


@pytest.mark.parametrize(
    ("path", "address"),
    [("evaluation/report.html", "/report/a"), ("dataset/train.jsonl", "/data/a"), ("dataset/tokens", "/tokens/a")],
)
def test_a_link_in_a_run_that_leads_out_is_refused(tmp_path, path, address):
    run = write_run(tmp_path / "project", "a")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "train.jsonl").write_text('{"messages": [{"role": "user", "content": "SECRET"}]}\n')
    (run / path).parent.mkdir()
    (run / path).symlink_to(secret if path.endswith("tokens") else secret / "train.jsonl")
    (run / "dataset").mkdir(exist_ok=True)
    (run / "dataset" / "report.json").write_text('{"rows": {"train": 1, "valid": 0, "test": 0}}')
    answer = client_of(tmp_path / "project").get(address)
    assert answer.status_code == 404
    assert "SECRET" not in answer.text


def test_a_refusal_is_a_sentence_on_a_page_and_json_for_a_script(client):
    page = client.get("/run/nothing", headers={"accept-language": "zh"})
    assert "no run is called nothing" in unescape(page.text)
    assert 'lang="zh"' in page.text
    assert "no run is called nothing" in client.get("/points/nothing", headers={"accept": "*/*"}).json()["error"]


def test_pages_of_other_sites_and_other_names_are_kept_out(tmp_path, monkeypatch):
    from starlette.testclient import TestClient

    from tunesmith.cli.studio import studio

    served = []
    monkeypatch.setattr("tunesmith.serving.running.serve_app", lambda app, *_, **__: served.append(app))
    run = write_run(tmp_path, "a")
    studio(tmp_path, 8765, browser=False)
    client = TestClient(served[0], base_url=URL)
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.post("/stop/a", headers={"origin": "https://evil.example"}).status_code == 403
    assert (
        client.get("/points/a", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}).status_code == 403
    )
    assert run.exists()


def test_a_folder_that_is_not_there_and_a_port_in_use_are_said_in_a_sentence(tmp_path):
    from tunesmith.cli.studio import studio
    from tunesmith.errors import RunError, ServingError
    from tunesmith.serving.running import listening

    with pytest.raises(RunError, match="none is no folder; name the one that"):
        studio(tmp_path / "none", 8765, browser=False)
    with listening("127.0.0.1", 0) as taken, pytest.raises(ServingError, match="is in use; give another with --port"):
        studio(tmp_path, taken.getsockname()[1], browser=False)


@pytest.mark.usefixtures("fresh_consoles")
def test_pages_are_served_while_a_slow_browser_opens(tmp_path, monkeypatch, capsys):
    from tunesmith.cli.studio import studio

    opened, ready = threading.Event(), threading.Event()
    monkeypatch.setattr("webbrowser.open", lambda url: ready.wait(10) and url == URL and opened.set())
    monkeypatch.setattr("tunesmith.serving.running.serve_app", lambda *_, on_ready, **__: on_ready(URL) or ready.set())
    studio(tmp_path, 8765, browser=True)
    assert opened.wait(10)
    assert URL in capsys.readouterr().out
