import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from tunesmith.cli import words
from tunesmith.cli.proof_table import proof_table
from tunesmith.cli.prose import wrap
from tunesmith.cli.tables import bar, report_table, side_by_side, token_rows
from tunesmith.export.proof_limits import Limits
from tunesmith.export.proof_model import Distance, model_check


def text(renderable, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    return shown


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.333, 0.999, 1.0, 2.0])
def test_a_bar_has_its_width(share):
    assert len(bar(share, 12)) == 12


def source(name, inputs, train, *, divided=0, quarantined=0, merged=0, removed=0):
    return {"source": name, "inputs": inputs, "divided": divided, "rows": train,
            "parts": {"train": train, "valid": 0, "test": 0},
            "quarantined": quarantined, "merged": merged, "removed": removed}  # fmt: skip


def report(*sources, **more):
    """As `build_report` makes it, as far as the terminal shows it."""
    sums = {key: sum(s[key] for s in sources) for key in ("inputs", "divided", "quarantined", "merged", "removed")}
    return {**sums, "rows": {"train": sum(s["rows"] for s in sources), "valid": 0, "test": 0}, "sources": [*sources],
            "cut": {"rows": 0, "lost": 0, "worst": []},
            "tokens": {"train": 0, "learned": 0, "longest": 0}, "findings": [], **more}  # fmt: skip


REPORT = report(
    source("客户服务/2024年第四季度/常见问题与标准答复（最终版本）.jsonl", 4012, 3975, quarantined=7, merged=30),
    source("docs/", 40, 820, divided=810, quarantined=5, removed=25),
    source("/mnt/shared/exports/support/2024-11-30/conversations-with-ratings.jsonl", 2001, 2000, merged=1),
    cut={
        "rows": 5000,
        "lost": 5000 * 952,
        "worst": [{"origin": f"很长的文章.jsonl:{i}", "tokens": 3000, "lost": 952} for i in range(50)],
    },
    tokens={"train": 480000, "learned": 96000, "longest": 2048},
    findings=[{"severity": "error", "message": "[x] 测试"}, {"severity": "note", "message": "fine"}],
)


@pytest.mark.parametrize("width", [60, 100])
def test_the_report_accounts_for_every_row(width):
    shown = text(report_table(REPORT, "It is said where."), width)
    for part in (
        "6,053",
        "+810",
        "6,795",
        "12",
        "20 % of them learned",
        "很长的文章.jsonl:0 lost 952",
        "4,997 more",
        "✗ [x] 测试",
        "• fine",
        "It is said where.",
    ):
        assert part in shown


def numbers(line):
    return [int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit()]


def test_every_line_of_the_account_adds_up():
    lines = text(report_table(REPORT, "It is said where."), 120).splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("source"))
    assert lines[heading].split() == ["source", "inputs", "divided", "rows", "quarantined", "merged", "removed"]
    accounts = [numbers(line) for line in lines[heading + 1 :] if len(numbers(line)) == 6]
    assert len(accounts) == 4
    assert accounts[-1] == [6053, 810, 6795, 12, 31, 25]
    for inputs, divided, *became in accounts:
        assert inputs + divided == sum(became)


@pytest.mark.parametrize(("width", "headings"), [
    (100, "source inputs divided rows quarantined merged removed"),
    (60, "source inputs divided rows not used"),
    (36, "source rows"),
])  # fmt: skip
def test_a_narrow_account_has_fewer_columns_and_whole_names(width, headings):
    shown = text(report_table(report(*REPORT["sources"]), "It is said where."), width)
    assert headings.split() in [line.split() for line in shown.splitlines()]
    names = "".join(line[: width // 3] for line in shown.splitlines())
    assert "客户服务" in names


def test_one_source_of_which_all_rows_stay_needs_no_account():
    assert "source" not in text(report_table(report(source("rows.jsonl", 10, 9, quarantined=1)), "It is said where."))
    assert "source" in text(report_table(report(source("rows.jsonl", 10, 9, merged=1)), "It is said where."))


def test_of_very_many_sources_the_first_are_named_and_all_are_counted():
    shown = text(report_table(report(*(source(f"part-{i:04}.jsonl", 10, 10) for i in range(500))), "It is said where."))
    assert "part-0019" in shown
    assert "part-0020" not in shown
    assert "480 more sources" in shown
    assert "5,000" in shown


def test_a_name_of_a_source_cannot_drive_the_terminal():
    shown = text(report_table(report(source("\x1b[31m赤.jsonl", 1, 1), source("[bold]b", 1, 1)), "It is said where."))
    assert "␛[31m赤.jsonl" in shown
    assert "[bold]b" in shown


def test_an_empty_report_is_drawn():
    shown = text(report_table(report(rows={}), "It is said where."))
    assert "rows and documents" in shown
    assert "merged" not in shown
    assert text(report_table(report(source("", 0, 0), source("", 0, 0)), "It is said where."), 20)


@pytest.mark.parametrize("width", [60, 81, 120])
def test_answers_stand_side_by_side_also_in_chinese(width):
    shown = text(
        side_by_side(
            "问题？", "我不知道您的数据库里有什么，请联系客服。" * 4 + "Please note.", "SELECT 1", "SELECT  1"
        ),
        width,
    )
    assert "tuned ✓" in shown
    assert "base ✓" not in shown
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert {cell_len(row) for row in rows} == {width}
    assert "Please" in shown


def test_an_empty_answer_is_said_to_be_empty():
    assert "(nothing)" in text(side_by_side("q", "", "a", None))


def test_lines_break_at_spaces_and_between_chinese_characters_but_not_before_a_comma():
    assert list(wrap("我不知道，你呢 hello world", 8)) == ["我不知", "道，你呢", "hello", "world"]
    assert list(wrap("a\n\n  b", 8)) == ["a", "", "  b"]
    assert list(wrap("abcdefghij", 4)) == ["abcd", "efgh", "ij"]
    assert list(wrap("from 41 % (base) 5 %", 8)) == ["from", "41 %", "(base)", "5 %"]


def test_no_character_is_lost_in_wrapping():
    prose = "Emoji 😀👩‍👩‍👧 naïve café, Ελληνικά 日本語テスト（括号）한국어 ✓ → ∑ €"
    for width in range(2, 40):
        assert "".join("".join(wrap(prose, width)).split()) == "".join(prose.split())


TOKENS = [("<|im_start|>", False, True), ("user", False, False), ("\n", False, False), ("首都", False, False),
          (" is", True, False), ("\x1b[31m", True, False), ("<|im_end|>", True, True),
          ("\n", False, False)]  # fmt: skip


def test_a_row_of_tokens_shows_boundaries_newlines_and_what_is_learned():
    shown = text(token_rows("rows.jsonl:3", TOKENS))
    assert "rows.jsonl:3  8 tokens, 3 learned" in shown
    assert "<|im_start|>│user│⏎\n首都⟦ is│␛[31m│<|im_end|>⟧⏎" in shown


def test_learned_tokens_are_underlined_so_that_they_show_without_colour():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, no_color=True, color_system="truecolor")
    console.print(token_rows("rows.jsonl:3", TOKENS))
    assert "\x1b[4m is" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.44, "0.4 s"), (45, "45 s"), (250, "4 min 10 s"), (725, "12 min"), (3720, "1 h 02 min"), (3599.7, "1 h 00 min")],
)
def test_durations_are_written_as_people_say_them(seconds, said):
    assert words.duration(seconds) == said


def test_small_numbers_are_written_short():
    assert [words.rate(1.2e-4), words.rate(0), words.size(2.1e9), words.size(3.4e8)] == [
        "1.2e-4",
        "0",
        "2.1 GB",
        "340 MB",
    ]
    assert [words.size(12_000), words.size(87), words.size(0)] == ["12 kB", "1 kB", "0 kB"]


def proof(kind, before, after, **more):
    measured = {"kl": 0.06, "top1": 0.89, "perplexity_trained": before, "perplexity_file": after}
    check = {"name": "model", "holds": True, "measured": measured, "means": "the same"}
    return {"gguf": f"a-{kind}.gguf", "kind": kind, "holds": True, "checks": [check], "causes": [], **more}


def failed(kind, **measured):
    check = model_check(Distance(**({"tokens": 1024, "kl": 0.06, "largest_kl": 0.6, "top1": 0.91, "difference": 3.0,
                                     "perplexity_trained": 1.01, "perplexity_file": 1.02} | measured)),
                        Limits().of(kind))  # fmt: skip
    cause = {"name": "lost in quantizing", "sentence": "it is the rounding; take q8_0, which held in this run"}
    return {"gguf": f"a-{kind}.gguf", "kind": kind, "holds": False, "checks": [check.to_json()], "causes": [cause]}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_number_that_broke_its_limit_is_marked_with_it_at_every_width(width):
    lines = text(proof_table([proof("q8_0", 1.01, 1.02), failed("q5_k_m", kl=0.31, largest_kl=5.9)]), width)
    shown = " ".join(lines.split())
    for said in ("> 0.12", "a-q5_k_m.gguf, model: mean KL 0.31 (at most 0.12)", "KL 5.9 at the worst token (at most 3)",
                 "a-q8_0.gguf", "→ it is the rounding; take q8_0, which held in this run"):  # fmt: skip
        assert said in shown
    assert ("worst KL" in shown) is (width >= 80)  # a column of its own where there is room
    assert "<" not in shown


def test_the_limit_of_every_kind_of_number_can_be_drawn():
    worst = {"kl": 9.0, "largest_kl": 9.0, "top1": 0.1, "difference": 9.0, "perplexity_file": 9.0, "base_kl": 0.1}
    shown = text(proof_table([failed("f16", **worst)]), 120)
    for limit in ("> 5e-05", "> 0.005", "< 97 %", "> 0.5", "> × 1.005", "< 4.5"):
        assert limit in shown


def test_after_a_quantized_base_the_loss_is_shown_before_and_after_merging():
    shown = " ".join(text(proof_table([proof("q4_k_m", 1.01, 1.02, **{"base was quantized": True})])).split())
    assert "held-out loss 0.0100 before and 0.0198 after merging into the base's de-quantized weights" in shown
    assert "weights and rounding to q4_k_m" in shown
    assert "rounding" not in text(proof_table([proof("f16", 1.01, 1.01, **{"base was quantized": True})]))
    for other in (proof("f16", 1.01, 1.02), proof("f16", None, None, **{"base was quantized": True})):
        assert "merging" not in text(proof_table([other]))
