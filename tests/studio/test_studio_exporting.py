"""Export: the files, their proof, and the jobs that make them."""

import json
from pathlib import Path

import pytest
from projects import client_of, write_run

from tunesmith.studio import jobs

CHECK = {"name": "model", "means": "", "measured": {"kl": 0.31, "top1": 0.86, "perplexity_trained": 4.02,
         "perplexity_file": 5.5}, "holds": False,
         "broken": [{"number": "kl", "said": "mean KL 0.31", "limit": "at most 0.12"}]}  # fmt: skip
PROOF = {"gguf": "one-q4_k_m.gguf", "kind": "q4_k_m", "holds": False, "seconds": 3.0,
         "checks": [{"name": "tokens", "holds": True}, CHECK],
         "causes": [{"sentence": "rounding loses <too> much"}]}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A trained run with an export."""
    run = write_run(tmp_path, "One 一")
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"x" * 5000)
    (run / "export" / "merged").mkdir(parents=True)
    (run / "export" / "merged" / "model.safetensors").write_bytes(b"x" * 3_000_000)
    (run / "export" / "one-q4_k_m.gguf").write_bytes(b"x" * 2_000_000)
    (run / "export" / ".one.tmp").write_bytes(b"x")
    (run / "export" / "proof.json").write_text(json.dumps([PROOF]))
    return run


@pytest.fixture
def client(run):
    return client_of(run.parents[1])


def test_files_sizes_and_the_proof_are_on_the_page(client):
    page = client.get("/export/One 一").text
    for said in ("adapter/", "5 kB", "merged/", "3 MB", "one-q4_k_m.gguf", "2 MB", "1 of 2", "0.310", "at most 0.12",
                 "86 %", "4.02 → 5.50", "rounding loses &lt;too&gt; much"):  # fmt: skip
        assert said in page
    assert ".one.tmp" not in page
    assert "tunesmith chat &#39;runs/One 一&#39;/export/one-q4_k_m.gguf" in page
    assert 'value="one"' in page  # a name that Ollama takes


def test_a_file_is_downloaded_and_none_from_elsewhere(client, run):
    (run.parent / "secret").write_text("what nobody may read")
    (run / "export" / "link").symlink_to(run.parent / "secret")
    assert len(client.get("/export-file/One 一?name=one-q4_k_m.gguf").content) == 2_000_000
    for name in ("../../secret", "/etc/passwd", "link", "..", "merged", "", "../recipe.toml"):
        answer = client.get("/export-file/One 一", params={"name": name})
        assert (answer.status_code, "nobody" in answer.text) == (404, False)


@pytest.mark.parametrize(("form", "arguments"), [
    ({"to": "ollama", "name": "my-model", "quant": "q8_0"}, ["my-model", "--to", "ollama", "--quant", "q8_0"]),
    ({"to": "gguf", "quant": "f16"}, ["--to", "gguf", "--quant", "f16"]),
    ({"to": "merged", "quant": "q8_0"}, ["--to", "merged"]),
])  # fmt: skip
def test_a_button_starts_the_command_that_a_terminal_would(client, run, monkeypatch, form, arguments):
    begun = []
    monkeypatch.setattr(jobs, "begin", lambda folder, given: begun.append((folder, given)))
    assert client.post("/export/One 一", data=form, follow_redirects=False).status_code == 303
    assert begun == [(run, ["export", str(run), *arguments])]


@pytest.mark.parametrize(("form", "sentence"), [
    ({"to": "exe"}, "is no format"),
    ({"to": "gguf", "quant": "q1"}, "is no kind of GGUF"),
    ({"to": "ollama", "name": ""}, "needs the name"),
    ({"to": "ollama", "name": "a b;rm"}, "a b;rm"),
    ({"to": "ollama", "name": "--to"}, "--to"),
])  # fmt: skip
def test_what_cannot_be_made_is_refused_and_nothing_is_started(client, monkeypatch, form, sentence):
    monkeypatch.setattr(jobs, "begin", lambda *_: pytest.fail("it was started"))
    answer = client.post("/export/One 一", data=form)
    assert answer.status_code == 400
    assert sentence in answer.text


def test_why_an_export_failed_is_said_until_the_next(client, run):
    (run / jobs.LOG).write_text("export: begins\ntunesmith: Ollama does not answer; start it with `ollama serve`\n")
    (run / jobs.RECORD).write_text(json.dumps({"pid": 1, "created": 0.0, "log": 0, "arguments": ["export"]}))
    assert "start it with `ollama serve`" in client.get("/export/One 一").text
    (run / jobs.LOG).write_text("export: done in 3 s\n")
    assert "Done." in client.get("/export/One 一").text


def test_an_untrained_run_has_nothing_to_export(tmp_path):
    write_run(tmp_path, "new")
    page = client_of(tmp_path).get("/export/new").text
    assert "nothing to export" in page
    assert "Create in Ollama" not in page
