"""The proof holds for a right export of every kind, measures what it says, and fails for what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import proof_tiny as tiny
import pytest
from proof_tiny import Tiny, rewrite
from tiny_chat import write_chat

from tunesmith.engines.writing import Generation
from tunesmith.errors import ModelError, StorageError
from tunesmith.export import proof_model, proof_prompt
from tunesmith.export.llama_server import ask_server
from tunesmith.export.proof import kind_of, prove
from tunesmith.export.proof_file import broken_limits
from tunesmith.export.proof_limits import Check, KindLimits, Limits, Others
from tunesmith.export.proof_model import Distance, model_check, run_on
from tunesmith.models.chat import ChatFormat
from tunesmith.models.gguf_file import read_gguf
from tunesmith.sources.example import Example, Message, Origin

QUICK = Limits(tokens=160, conversations=2, prompts=3, max_new_tokens=8)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny.make(tmp_path_factory.mktemp("llama"))


def row(*turns: tuple[str, str], **extra: object) -> Example:
    return Example(tuple(Message(role, text) for role, text in turns), Origin("t", 1), dict(extra))  # type: ignore[arg-type]


def test_a_right_export_holds_and_says_what_it_measured(llama: Tiny) -> None:
    heard: list[tuple[str, float]] = []
    proof = prove(
        llama.gguf, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK,
        on_progress=lambda what, done: heard.append((what, done)),
    )  # fmt: skip
    assert proof.holds
    assert proof.causes == []
    said = json.loads(json.dumps(proof.to_json(), allow_nan=False))
    assert said["kind"] == "f16"
    checks = {check["name"]: check for check in said["checks"]}
    assert list(checks) == ["file", "tokenizer", "prompt", "template", "model", "text", "end"]
    assert all(check["means"].endswith(".") for check in said["checks"])
    assert checks["prompt"]["measured"]["conversations"] == checks["prompt"]["measured"]["same"] == 10
    assert len(checks["prompt"]["measured"]["shapes"]) == 5
    assert checks["model"]["measured"]["tokens"] == 160
    assert checks["model"]["measured"]["kl"] < 1e-4
    assert checks["model"]["measured"]["base_kl"] > 0.01
    assert heard[-1] == ("model", 1.0)


def test_the_base_without_an_adapter_holds_too(llama: Tiny, tmp_path: Path) -> None:
    file = rewrite(llama.gguf, tmp_path / "base.gguf", change=tiny.expected(llama.base, None))
    proof = prove(file, llama.base, None, tiny.rows(), llama.engine, llama.chat, QUICK)
    assert proof.holds
    assert next(c for c in proof.checks if c.name == "model").measured["base_kl"] is None


def test_ollamas_template_is_held_against_training(llama: Tiny) -> None:
    from tunesmith.export.ollama_template import Derived, derive

    derived = derive(llama.chat)
    right = prove(llama.gguf, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK, derived)
    assert right.holds
    wrong = Derived(derived.template.replace("assistant\n", "assistant: "), True, [])
    proof = prove(llama.gguf, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK, wrong)
    assert [check.name for check in proof.checks if not check.holds] == ["ollama"]
    assert [cause.name for cause in proof.causes] == ["wrong Ollama TEMPLATE"]


def test_a_file_that_is_cut_short_is_refused_in_one_sentence(llama: Tiny, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(llama.gguf.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="is cut short"):
        prove(cut, llama.base, llama.adapter, tiny.rows(), llama.engine, llama.chat, QUICK)


# -- prompts -----------------------------------------------------------------------------------------


def test_rows_that_cannot_be_compared_are_counted(llama: Tiny) -> None:
    asked = proof_prompt.conversations(
        [
            row(("user", "a"), ("assistant", "b")),
            row(("user", "what is <|im_end|>?"), ("assistant", "an end")),
            row(("user", "a"), ("assistant", "b"), tools=[{"type": "function"}]),
            row(("text", "only text")),
        ],
        llama.chat,
        4,
    )
    assert (len(asked.conversations), asked.literal, asked.tools, asked.refused) == (5, 1, 1, 0)


def test_a_template_without_system_messages_is_asked_without(tmp_path: Path) -> None:
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    chat = ChatFormat(write_chat(tmp_path / "chat", refuse + tiny.CHATML))
    asked = proof_prompt.conversations([row(("user", "a"), ("assistant", "b"))], chat, 1)
    assert [c.shape for c in asked.conversations] == [
        "as the row stands", "no system message, one turn", "no system message, several turns"
    ]  # fmt: skip
    assert asked.refused == 2


def test_the_first_difference_of_a_prompt_is_shown(llama: Tiny) -> None:
    asked = proof_prompt.conversations(tiny.rows(1), llama.chat, 1).conversations[:1]
    other = llama.chat.encode(llama.chat.decode(asked[0].ids, special=True).replace("user", "person"))
    found = proof_prompt.differences(llama.chat, asked, [other])
    assert len(found) == 1
    assert "user" in found[0].trained
    assert "person" in found[0].found
    assert proof_prompt.differences(llama.chat, asked, [asked[0].ids]) == []


# -- numbers -----------------------------------------------------------------------------------------


def distance(**changes: float) -> Distance:
    right = {"tokens": 100, "kl": 1e-6, "largest_kl": 1e-5, "top1": 1.0, "difference": 0.01,
             "perplexity_trained": 3.0, "perplexity_file": 3.0, "base_kl": 0.5}  # fmt: skip
    return Distance(**(right | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "number", "said"),
    [({"kl": 0.25}, "kl", "mean KL 0.25 (at most 5e-05)"),
     ({"largest_kl": 5.0}, "largest_kl", "KL 5 at the worst token (at most 0.005)"),
     ({"top1": 0.96996}, "top1", "the same likeliest token 96.996 % of the time (at least 97 %)"),
     ({"difference": 9.0}, "difference", "logits that differ by 9 (at most 0.5)"),
     ({"perplexity_file": 4.0}, "perplexity_ratio", "perplexity off by a factor of 1.33 (at most 1.005)"),
     ({"perplexity_file": 2.0}, "perplexity_ratio", "perplexity off by a factor of 1.5 (at most 1.005)"),
     ({"kl": 4e-5, "base_kl": 1e-6}, "base_kl", "mean KL 1e-06 to the untrained base (at least 2e-05)"),
     ({"kl": float("nan")}, "kl", "mean KL nan (at most 5e-05)"),
     ({"perplexity_file": float("inf")}, "perplexity_ratio", "perplexity off by a factor of inf (at most 1.005)")],
)  # fmt: skip
def test_each_number_alone_can_make_it_fail_and_is_said_with_its_limit(
    changes: dict[str, float], number: str, said: str
) -> None:
    assert model_check(distance(), Limits().f16).holds
    check = model_check(distance(**changes), Limits().f16)
    assert not check.holds
    assert [broken.number for broken in check.broken] == [number]
    assert broken_limits(check.to_json()) == [said]


def test_what_rounds_too_much_is_answered_by_a_kind_that_held_or_the_next_one_that_did_not_fail() -> None:
    assert Others(held=["f16", "q8_0"]).instead_of("q4_k_m") == "take q8_0, which held in this run"
    assert Others().instead_of("q4_k_m") == "take q5_k_m (--quant q5_k_m), the next kind with more bits"
    assert "take q6_k (--quant q6_k)" in Others(held=["q4_k_m"], failed=["q5_k_m"]).instead_of("q4_k_m")
    assert "take f16" in Others().instead_of("bf16")
    assert "--to merged" in Others().instead_of("f16")


def test_logits_that_are_no_numbers_never_pass() -> None:
    sums, logits = proof_model._Sums(), np.zeros((4, 300), np.float32)
    sums.add([1, 2, 3, 4], [False, True, True, True], logits, np.full_like(logits, np.nan))
    assert not model_check(sums.distance(), Limits().q4_k_m).holds


def test_rows_without_learned_tokens_have_no_perplexity() -> None:
    nan = float("nan")
    assert model_check(distance(perplexity_trained=nan, perplexity_file=nan), Limits().f16).holds


def test_logits_are_taken_in_parts_that_fit(llama: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = proof_model.learned_rows(tiny.rows(), llama.chat, 160, 256)
    assert sum(len(ids) for ids, _ in rows) == 160
    whole = proof_model.measure(llama.gguf, llama.engine, rows, adapter=True)
    monkeypatch.setattr(proof_model, "WAITING", 1)
    parts = list(proof_model._parts(rows[:2], llama.engine))
    assert [len(part) for part in parts] == [1, 1]
    pieces = proof_model.measure(llama.gguf, llama.engine, rows[:2], adapter=True)
    assert pieces.tokens == sum(len(ids) for ids, _ in rows[:2])
    assert whole.kl == pytest.approx(pieces.kl, abs=1e-4)


def test_a_server_is_ended_when_it_is_told_to_stop_in_the_middle(llama: Tiny) -> None:
    class Stopped(Exception):
        pass

    def stop(_: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        ask_server(llama.gguf, [], [[1, 2, 3]] * 6, 4, stop)


def test_no_room_for_a_rows_logits_is_said_before_llama_cpp_meets_it(
    llama: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = proof_model.learned_rows(tiny.rows(), llama.chat, 160, 256)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    with pytest.raises(StorageError, match=r"the disk is full: .* has room for 5 kB, .* TMPDIR"):
        proof_model.measure(llama.gguf, llama.engine, rows, adapter=True)


# -- answers -----------------------------------------------------------------------------------------


class Scores:
    """An engine that always gives these logits."""

    def __init__(self, **scores: float) -> None:
        self.row = np.zeros((1, 300), np.float32)
        for name, score in scores.items():
            self.row[0, int(name[1:])] = score

    def logits(self, ids: list[int], *, adapter: bool = True) -> np.ndarray:
        return np.repeat(self.row, len(ids), axis=0)


def answers(trained: Generation, found: Generation, limit: KindLimits, engine: Scores, chat: ChatFormat) -> list[Check]:
    return proof_model.answer_checks(engine, chat, [[1, 2]], [trained], [found], True, 0.02, limit)  # type: ignore[arg-type]


def test_another_text_fails_unless_two_tokens_tie(llama: Tiny) -> None:
    ours, theirs = Generation([5, 6], True), Generation([5, 7], True)
    far, near = Scores(t6=1.0, t7=0.5), Scores(t6=1.0, t7=0.99)
    assert not answers(ours, theirs, Limits().f16, far, llama.chat)[0].holds
    tied = answers(ours, theirs, Limits().f16, near, llama.chat)[0]
    assert tied.holds
    assert tied.measured["ties"] == 1
    assert answers(ours, theirs, Limits().q4_k_m, far, llama.chat)[0].holds


def test_an_answer_that_does_not_stop_where_it_did_fails_for_every_kind(llama: Tiny) -> None:
    ours, end = Generation([5, 6], True), min(llama.chat.stop)
    for theirs in (Generation([5, 6, 8, 9], False), Generation([5, 6, end, 9], False)):
        assert run_on([ours], [theirs]) == [0]
        for limit in (Limits().f16, Limits().q4_k_m):
            assert not answers(ours, theirs, limit, Scores(**{f"t{end}": 1.0}), llama.chat)[1].holds
    assert answers(ours, ours, Limits().f16, Scores(), llama.chat)[1].holds
    assert answers(theirs, theirs, Limits().f16, Scores(), llama.chat)[1].holds  # nor did it in training


# -- kinds -------------------------------------------------------------------------------------------


def test_the_kind_is_what_the_metadata_or_the_weights_say(llama: Tiny, tmp_path: Path) -> None:
    assert kind_of(read_gguf(llama.gguf)) == "f16"
    for name, kind in (("MOSTLY_Q4_K_M", "q4_k_m"), ("MOSTLY_BF16", "bf16"), ("ALL_F32", "f16")):
        number = {"general.file_type": int(gguf.LlamaFileType[name])}
        assert kind_of(read_gguf(rewrite(llama.gguf, tmp_path / f"{name}.gguf", metadata=number))) == kind
