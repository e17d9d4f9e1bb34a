from __future__ import annotations

import random
import re
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.dataset.similar import (
    BLOCK,
    MOST,
    PERMUTATIONS,
    Candidates,
    Signatures,
    band_size,
    jaccard,
    near_duplicates,
    normal,
    normal_all,
    signature,
)

WORDS = [
    "data",
    "table",
    "index",
    "query",
    "vacuum",
    "row",
    "lock",
    "page",
    "数据",
    "索引",
    "查询",
    "分区",
    "并行",
    "日志",
]


def sentence(rng: random.Random, count: int = 60) -> list[str]:
    return [rng.choice(WORDS) + str(rng.randrange(1000)) for _ in range(count)]


def stored(folder: Path, texts: list[str]) -> Signatures:
    signatures = Signatures(folder)
    signatures.add(np.stack([signature(text) for text in texts]))
    return signatures


def found(folder: Path, texts: list[str], similarity: float = 0.85) -> list[tuple[int, int, float]]:
    return list(near_duplicates(texts.__getitem__, stored(folder, texts), similarity))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("你好，世界！ＡＢＣ１２３", "你好, 世界! abc123"),
        ("什么是“索引”？", '什么是"索引"?'),
        ("Hello,   World.", "hello world"),
        ("Straße\n\n\tend…", "STRASSE end"),
        ("（a）：b", "(a): b"),
    ],
)
def test_full_and_half_width_case_and_punctuation_make_no_difference(one: str, other: str):
    assert normal(one) == normal(other)
    assert jaccard(one, other) == 1.0


@pytest.mark.parametrize(("one", "other"), [("3 + 4", "3 - 4"), ("C#", "C"), ("a < b", "a > b"), ("???", "!!!")])
def test_signs_that_mean_something_make_a_difference(one: str, other: str):
    assert normal(one) != normal(other)


@given(st.text())
@settings(deadline=None)
def test_any_text_has_a_signature_and_is_like_itself(text: str):
    assert signature(text).shape == (PERMUTATIONS,)
    assert signature(text).dtype == np.uint32
    assert jaccard(text, text) == 1.0
    assert normal(normal(text)) == normal(text) or not text.isascii()


def test_a_signature_is_the_same_on_every_machine():
    # Read off once; signatures that change make stored ones useless.
    assert signature("What is an index? 什么是索引？")[:4].tolist() == [98559308, 71852329, 65465145, 78262779]
    assert signature("")[:2].tolist() == [712730543, 1181572735]


def test_the_estimate_is_unbiased_and_as_sharp_as_theory_says():
    rng = random.Random(1)
    errors = []
    for i in range(300):
        row = sentence(rng)
        other = row[: i % 60] + sentence(rng, 60 - i % 60)
        a, b = " ".join(row), " ".join(other)
        errors.append((signature(a) == signature(b)).mean() - jaccard(a, b))
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 0.5 / PERMUTATIONS**0.5


def test_a_long_text_is_hashed_in_blocks_to_the_same_signature():
    text = " ".join(sentence(random.Random(2), 3 * BLOCK // 8))
    halves = np.minimum(signature(text[: BLOCK + 4]), signature(text[BLOCK:]))
    whole = signature(text)
    assert len(text) > 2 * BLOCK
    assert (halves == whole).mean() > 0.9  # the halves lose a piece or two where spaces are cut off


def test_signatures_stay_on_disk_and_are_continued(tmp_path: Path):
    stored(tmp_path, ["one", "two"])
    with (tmp_path / "signatures.u32").open("ab") as file:
        file.write(b"torn by a crash")
    again = Signatures(tmp_path)
    again.add(signature("one"))
    assert len(again) == 3
    assert [pair for piece in again.pairs(0.85) for pair in piece.tolist()] == [(0, 2, 1.0)]


@pytest.mark.parametrize("texts", [[], ["alone"]])
def test_too_few_rows_have_no_pairs(tmp_path: Path, texts: list[str]):
    signatures = Signatures(tmp_path)
    for text in texts:
        signatures.add(signature(text))
    assert list(near_duplicates(texts.__getitem__, signatures, 0.85)) == []


def test_changed_copies_are_found_and_others_are_not(tmp_path: Path):
    rng = random.Random(3)
    rows = [sentence(rng) for _ in range(900)]
    for i in range(100):
        row = list(rows[i])
        row[rng.randrange(60)] = "changed"
        rows.append(row)
    texts = [" ".join(row) for row in rows]
    alike = {(i, 900 + i) for i in range(100) if jaccard(texts[i], texts[900 + i]) >= 0.85}
    pairs = found(tmp_path, texts)
    assert len(alike) > 95
    assert {(kept, row) for kept, row, _ in pairs} >= alike
    assert all(exact == jaccard(texts[kept], texts[row]) >= 0.85 for kept, row, exact in pairs)


@pytest.mark.parametrize("similarity", [0.55, 0.7, 0.85, 0.95, 1.0])
def test_a_band_suits_the_similarity(similarity: float):
    size = band_size(similarity)
    assert 1 - (1 - similarity**size) ** (PERMUTATIONS // size) >= 0.995


def test_a_chain_leads_to_its_earliest_row_and_loses_no_row_unlike_it(tmp_path: Path):
    row = sentence(random.Random(4))
    steps = [" ".join(["new"] * i + row[i:]) for i in range(0, 30, 2)]
    pairs = found(tmp_path, steps, 0.8)
    kept = {row for row, _, _ in pairs}
    assert kept.isdisjoint(row for _, row, _ in pairs)
    assert all(jaccard(steps[a], steps[b]) >= 0.8 for a, b, _ in pairs)
    assert len({row for _, row, _ in pairs}) >= 8


def test_thousands_of_equal_rows_lead_to_the_first(tmp_path: Path):
    texts = ["a unique row of its own", *["The same row，again and again"] * 3000, "the same row, again and again!"]
    pairs = found(tmp_path, texts)
    assert pairs == [(1, i, 1.0) for i in range(2, 3002)]


def test_thousands_of_rows_from_one_form_take_no_quadratic_time(tmp_path: Path):
    form = " ".join(sentence(random.Random(5), 100))
    texts = [f"{form} number {i}" for i in range(4000)]
    signatures = stored(tmp_path, texts)
    began = time.process_time()
    pairs = near_duplicates(texts.__getitem__, signatures, 0.85)
    assert [(kept, row) for kept, row, _ in pairs] == [(0, i) for i in range(1, 4000)]
    assert time.process_time() - began < 20  # 8 million pairs would take minutes


@given(st.lists(st.text() | st.text(st.sampled_from("\0 a，。1①ΑÅｶﾞ\u3000\x85"))))
def test_many_texts_at_once_are_compared_as_each_alone(texts: list[str]):
    assert normal_all(texts) == [normal(text) for text in texts]


@given(st.text() | st.text(st.sampled_from("\0 a.，。1①ΑÅﬁŉ\u3000\x85\u2003’")))
def test_a_text_is_compared_by_its_words_in_their_usual_form(text: str):
    between = re.compile(
        r"""[\s,.;:!?"'`()\[\]{}，．；：！？＂＇（）［］｛｝｡､｢｣、。〈〉《》「」『』【】〔〕〖〗“”‘’—–…·•～〜]+"""
    )
    words = between.sub(" ", unicodedata.normalize("NFKC", between.sub(" ", text)))
    assert normal(text) == (between.sub(" ", words).strip().casefold() or text)


def test_of_any_number_of_pairs_the_most_alike_are_kept_in_bounded_memory():
    candidates, alike = Candidates(1000), {}
    rng = np.random.default_rng(0)
    for _ in range(40):
        later = rng.permutation(np.arange(100, 1000))
        earlier = rng.integers(0, 100, 900)
        estimates = ((earlier * 31 + later * 17) % 64 / 64).astype("f4")
        pairs = np.rec.fromarrays(
            [earlier, later, estimates], dtype=[("earlier", "u4"), ("later", "u4"), ("estimate", "f4")]
        )
        candidates.add(pairs)
        candidates.add(pairs[::2])
        for one, other, estimate in pairs.tolist():
            alike.setdefault(other, {})[one] = estimate
    expected = [
        (row, one) for row in sorted(alike) for one in sorted(alike[row], key=lambda e: (-alike[row][e], e))[:MOST]
    ]
    assert list(candidates) == expected
