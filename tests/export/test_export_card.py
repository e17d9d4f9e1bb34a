from __future__ import annotations

import getpass
import json
import shutil
import socket
from pathlib import Path

import pytest
from huggingface_hub import metadata_load

from tunesmith.errors import RunError
from tunesmith.export.base_model import base_id, licence_of_card, shown_name
from tunesmith.export.card import Teacher, model_card
from tunesmith.files import file_hash, write_json
from tunesmith.run import RunFolder
from tunesmith.settings import make_recipe

ADAPTER = [Path("adapter_config.json"), Path("adapter_model.safetensors")]
SCORES = [
    {"model": "base", "split": "test", "loss": 1.8759, "perplexity": 6.527,
     "tasks": {"sql": {"score": 0.0, "n": 200, "interval": [0.0, 0.0188]}}},
    {"model": "step-000040", "split": "test", "loss": 0.5, "perplexity": 1.6},
    {"model": "tuned", "split": "test", "loss": 0.0189, "perplexity": 1.019,
     "tasks": {"sql": {"score": 0.955, "n": 200, "interval": [0.9167, 0.9761], "p_value": 6e-58}}},
]  # fmt: skip


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run of Anna's, on her machine, in her folders."""
    folder = tmp_path / "home" / "anna" / "runs" / "annas-diary"
    data = {"sources": ["/home/anna/diary/rows.jsonl", "data/annas.csv"], "system": "You are Anna.", "max_tokens": 256}
    recipe = make_recipe(
        {"model": {"name": "/home/anna/models/qwen"}, "data": data, "train": {"lora": {"rank": 16}}}, folder=folder
    )
    made = RunFolder(folder)
    made.save_recipe(recipe)
    made.update_manifest(
        model={"name": "/home/anna/models/qwen", "sha256": "b" * 64}, adapter={"step": 120, "sha256": "a" * 64}
    )
    report = {
        "inputs": 1210, "rows": {"train": 964, "valid": 36, "test": 200}, "quarantined": 3, "merged": 5, "removed": 2,
        "sources": [{"source": "/home/anna/diary/rows.jsonl"}],
        "cut": {"rows": 1, "lost": 2, "worst": [{"origin": "/home/anna/diary/rows.jsonl:1"}]},
        "tokens": {"train": 87394, "learned": 17504},
    }  # fmt: skip
    write_json(made.dataset / "report.json", report)
    write_json(made.evaluation / "results.json", SCORES)
    return made


def prove(run: RunFolder, value: object) -> None:
    write_json(run.path / "export" / "proof.json", value)


def front_matter(card: str, folder: Path) -> dict:
    (folder / "card.md").write_text(card, encoding="utf-8")
    return metadata_load(folder / "card.md")


def test_the_front_matter_says_base_licence_library_and_tags(run, tmp_path):
    card = model_card(run, ADAPTER, "starter", to="hf:anna/shop", language=["en", "zh"])
    assert front_matter(card, tmp_path) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "base_model_relation": "adapter", "language": ["en", "zh"],
        "library_name": "peft", "license": "apache-2.0", "pipeline_tag": "text-generation",
        "tags": ["tunesmith", "lora"],
    }  # fmt: skip
    assert "# shop\n" in card


def test_what_is_not_known_is_not_claimed(run, tmp_path):
    values = front_matter(model_card(run, ADAPTER, "/home/anna/models/qwen"), tmp_path)
    assert not {"base_model", "base_model_relation", "license", "language", "datasets"} & values.keys()


def test_nothing_personal_is_in_it(run, tmp_path):
    prove(run, {"gguf": "/home/anna/runs/x/model-q8_0.gguf", "holds": True, "checks": []})
    for files in (ADAPTER, [Path("/home/anna/runs/x/model-q8_0.gguf")], [Path("/home/anna/model.safetensors")]):
        for base in ("/home/anna/models/qwen", "C:\\Users\\anna\\models\\qwen", "/home/anna/qwen.gguf"):
            card = model_card(run, files, base, teacher=Teacher("/home/anna/models/big"))
            for private in ("anna", "Anna", "/home", "Users", "diary", str(tmp_path), socket.gethostname()):
                assert private not in card
            assert getpass.getuser() not in card.split()
            assert "qwen" in card
            assert "rows.jsonl" not in card


def test_the_counts_are_those_of_the_report(run):
    card = model_card(run, ADAPTER, "starter")
    for line in ("| rows read | 1,210 |", "| rows to train | 964 |", "| rows to test | 200 |", "| cut for length | 1 |",
                 "| quarantined | 3 |", "| of them learned | 17,504 |"):  # fmt: skip
        assert line in card
    assert "a fixed one" in card


def test_the_settings_are_those_of_the_recipe(run):
    card = model_card(run, ADAPTER, "starter")
    assert "| LoRA rank, alpha, dropout | 16, 16, 0 |" in card
    assert "| length | 3 epochs |" in card
    assert "| longest row | 256 tokens |" in card


def test_base_stands_beside_tuned_with_intervals(run):
    card = model_card(run, ADAPTER, "starter")
    assert "| base | 1.876 | 6.53 | 0.0 % (0.0–1.9 %, n = 200) |" in card
    assert "| tuned | 0.019 | 1.02 | 95.5 % (91.7–97.6 %, n = 200) |" in card
    assert "- Tuned is better: it answers 96 % of 200 questions right, base 0 %." in card
    assert "step-000040" not in card


@pytest.mark.parametrize(
    ("score", "p", "said"), [(0.01, 0.4, "No difference can be told from chance"), (0.5, 0.01, "Tuned is worse")]
)
def test_a_result_that_is_no_better_is_said_as_plainly(run, score, p, said):
    worse = json.loads(json.dumps(SCORES))
    worse[0]["tasks"]["sql"]["score"] = 0.9
    worse[2]["tasks"]["sql"] |= {"score": score, "p_value": p}
    write_json(run.evaluation / "results.json", worse)
    assert said in model_card(run, ADAPTER, "starter")


def test_what_was_not_measured_is_said_so(run):
    write_json(run.evaluation / "results.json", [SCORES[0], {"model": "tuned", "loss": 0.5}])
    assert "| tuned | 0.500 | not measured | not measured |" in model_card(run, ADAPTER, "starter")
    shutil.rmtree(run.evaluation)
    shutil.rmtree(run.dataset)
    card = model_card(run, ADAPTER, "starter")
    assert "| base | not measured | not measured |" in card
    assert "| tuned | not measured | not measured |" in card
    assert "Not recorded." in card


def test_the_proof_of_each_published_file_is_told(run):
    files = [Path("a-f16.gguf"), Path("a-q8_0.gguf"), Path("a-q4_k_m.gguf"), Path("Modelfile")]
    assert "| a-f16.gguf | not proved |" in model_card(run, files, "starter")
    failed = {"gguf": "a-q4_k_m.gguf", "holds": False,
              "checks": [{"name": "prompt", "holds": False}, {"name": "model", "holds": True}]}  # fmt: skip
    prove(run, [{"gguf": "/x/a-f16.gguf", "holds": True, "checks": []}, failed])
    card = model_card(run, files, "starter")
    assert "| a-f16.gguf | holds |" in card
    assert "| a-q8_0.gguf | not proved |" in card
    assert "| a-q4_k_m.gguf | **does not hold**: prompt |" in card
    assert "not with the files here" in card
    assert "## Proof" not in model_card(run, ADAPTER, "starter")


def test_a_proof_of_another_file_of_the_same_name_proves_nothing(run, tmp_path):
    gguf = tmp_path / "a-f16.gguf"
    gguf.write_bytes(b"GGUF one")
    prove(run, [{"gguf": "a-f16.gguf", "sha256": file_hash(gguf), "holds": True, "checks": []}])
    assert "| a-f16.gguf | holds |" in model_card(run, [gguf], "starter")
    gguf.write_bytes(b"GGUF two")
    assert "| a-f16.gguf | not proved |" in model_card(run, [gguf], "starter")


def test_it_says_how_to_run_what_is_there(run, tmp_path):
    adapter = model_card(run, ADAPTER, "hf:Qwen/Qwen3-0.6B@main", to="hf:anna/shop")
    assert 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B"), "anna/shop")' in adapter
    assert "--adapter-path" not in adapter
    with_mlx = model_card(run, [*ADAPTER, Path("adapters.safetensors")], "starter")
    assert "mlx_lm.generate --model HuggingFaceTB/SmolLM2-135M-Instruct --adapter-path" in with_mlx
    gguf = model_card(run, [Path("a.gguf"), Path("Modelfile")], "starter", to="modelscope:anna/shop")
    assert "ollama create my-model -f Modelfile" in gguf
    assert "llama-server -m a.gguf --jinja" in gguf
    assert "FROM" not in gguf
    assert 'echo "FROM ./a.gguf" > Modelfile' in model_card(run, [Path("a.gguf")], "starter")
    merged = model_card(run, [Path("config.json"), Path("model.safetensors")], "starter", to="hf:anna/shop")
    assert "mlx_lm.generate --model anna/shop" in merged
    (tmp_path / "config.json").write_text('{"quantization": {"bits": 4}}')
    assert "quantized for MLX" in model_card(run, [tmp_path / "config.json", Path("model.safetensors")], "starter")
    for card in (adapter, with_mlx, gguf, merged):
        for name in ("Ollama", "llama.cpp", "transformers", "peft", "mlx-lm"):
            assert name in card


def test_the_code_for_python_is_python(run):
    for files in (ADAPTER, [Path("config.json"), Path("model.safetensors")]):
        code = model_card(run, files, "starter", to="hf:a/b").split("```python\n")[1].split("```")[0]
        compile(code, "card", "exec")


def test_the_licence_is_that_of_the_base_models_own_card(run, tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: 'gemma:\n  terms'\nlicense_link: https://x/y\n---\n", encoding="utf-8"
    )
    card = model_card(run, ADAPTER, "hf:google/gemma", base_folder=tmp_path)
    assert front_matter(card, tmp_path)["license_name"] == "gemma: terms"
    assert "google/gemma is under gemma: terms (https://x/y)" in card


@pytest.mark.parametrize("text", ["", "# none", "---\nlicense: [a\n---\n", "---\nlicense: 3\n---\n", "---\n- a\n---\n"])
def test_a_base_whose_licence_cannot_be_read_sends_to_look_it_up(run, tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    card = model_card(run, ADAPTER, "hf:o/n", base_folder=tmp_path)
    assert "licence of the base model o/n is not known here" in card
    assert "license" not in front_matter(card, tmp_path)
    assert licence_of_card(text) is None


def test_a_teacher_is_named_with_its_terms(run):
    card = model_card(run, ADAPTER, "starter", teacher=Teacher("Qwen/Qwen3-32B", "apache-2.0"))
    assert "Rows were written by Qwen/Qwen3-32B, under apache-2.0" in card
    assert "whose terms are not known here" in model_card(run, ADAPTER, "starter", teacher=Teacher("big"))
    assert "written by" not in model_card(run, ADAPTER, "starter")


def test_a_damaged_file_of_the_run_is_said(run):
    (run.evaluation / "results.json").write_text("[{")
    with pytest.raises(RunError, match=r"results\.json is damaged"):
        model_card(run, ADAPTER, "starter")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("starter", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("hf:Qwen/Qwen3-0.6B@v1#a.gguf", "Qwen/Qwen3-0.6B"),
        ("modelscope:Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/home/a/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/12", "Qwen/Qwen3-0.6B"),
        ("/home/a/.cache/tunesmith/models-hub/hf/Qwen/Qwen3-0.6B/main", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/home/a/qwen", None),
        ("qwen.gguf", None),
    ],
)
def test_the_hubs_name_of_a_base_is_found(name, known):
    assert base_id(name) == known


def test_of_a_path_only_the_last_part_is_shown():
    assert shown_name("/home/a/qwen") == shown_name("C:\\a\\qwen") == shown_name("qwen/") == "qwen"
    assert shown_name("") == shown_name("/") == "the base model"
