import re
from dataclasses import replace

import numpy as np
import pytest
from html_page import HOSTILE, Page, assert_closed, assert_inert
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.cli.page import check_page
from tunesmith.dataset.decide import Decisions
from tunesmith.dataset.report import BINS, Account, Tally, build_report
from tunesmith.engines.needs import Needs
from tunesmith.pages.text import harmless
from tunesmith.settings import DataSettings
from tunesmith.sources.example import Example, Message, Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.stages import Sample
from tunesmith.training.fit import Fit

# -- realistic data ------------------------------------------------------------------------------


def account(source, inputs, parts, *, divided=0, quarantined=0, merged=0, removed=0):
    return {
        "source": source, "inputs": inputs, "divided": divided, "rows": sum(parts),
        "parts": dict(zip(("train", "valid", "test"), parts, strict=True)),
        "quarantined": quarantined, "merged": merged, "removed": removed,
    }  # fmt: skip


def side(origin, question, answer):
    return {"origin": origin, "question": question, "answer": answer}


SOURCES = [
    account(
        "客服/2024年第四季度/常见问题与标准答复（最终版）.jsonl",
        4012,
        (3178, 391, 402),
        quarantined=9,
        merged=28,
        removed=4,
    ),
    account("handbook/", 118, (764, 96, 93), divided=842, quarantined=2, removed=5),
    account("exports/support-2024-11.csv", 2140, (1688, 217, 220), quarantined=1, merged=14),
]
FINDINGS = [
    ("error", "3 rows that are measured on ask what is trained on too, the first at exports/support-2024-11.csv:871 "
              "(trained on at 客服/2024年第四季度/常见问题与标准答复（最终版）.jsonl:120)"),
    ("warning", "9 quarantined, the first at 客服/2024年第四季度/常见问题与标准答复（最终版）.jsonl:77: "
                "the answer is empty; fill it in, or delete the row"),
    ("warning", "212 rows are longer than 512 tokens and lose 40213 of them"),
    ("warning", "2 questions have different answers, in 7 rows (all kept); the most, 5: 退款多久到账？"),
    ("note", "42 rows repeat another one exactly and were left out"),
    ("note", "2 lines that many documents begin or end with were left out, 214 times: © 2024 星河软件有限公司"),
    ("note", "31 e-mail addresses in the rows, the first at exports/support-2024-11.csv:14; data.clean.redact can "
             "replace them ('email')"),
]  # fmt: skip
HISTOGRAM = [0, 3, 41, 188, 402, 611, 733, 802, 760, 655, 540, 431, 352, 270, 221, 180, 142, 120, 96, 83, 70, 61, 50,
             44, 38, 31, 27, 22, 19, 16, 14, 233]  # fmt: skip
REPORT = {
    "inputs": 6270,
    "divided": 842,
    "rows": {"train": 5630, "valid": 704, "test": 715},
    "quarantined": 12,
    "merged": 42,
    "removed": 9,
    "sources": SOURCES,
    "cut": {"rows": 212, "lost": 9000, "worst": [
        {"origin": f"handbook/安装.md [第{i}章]", "tokens": 513 + 7 * i, "lost": 1 + 7 * i} for i in range(50)
    ]},
    "tokens": {"train": 811_204, "learned": 303_017, "longest": 512, "limit": 512, "histogram": HISTOGRAM},
    "findings": [{"severity": severity, "message": message} for severity, message in FINDINGS],
    "preferences": 0,
    "boilerplate": [
        {"line": "© 2024 星河软件有限公司 保留所有权利", "documents": 112},
        {"line": "[![build](https://ci.example.org/badge.svg)](https://ci.example.org)", "documents": 102},
    ],
    "conflicts": [
        {"question": "退款多久到账？", "origin": "客服/2024年第四季度/常见问题与标准答复（最终版）.jsonl:31", "rows": 5,
         "answers": ["一般 3 到 5 个工作日到账。", "退款会在 7 天内原路退回。", "请联系人工客服查询。"]},
        {"question": "How do I reset my password?", "origin": "exports/support-2024-11.csv:9", "rows": 2,
         "answers": ["Choose “Forgot password” on the sign-in page.", ""]},
    ],
    "near_duplicates": [
        {"first": side("exports/support-2024-11.csv:40", "Can I use the licence on two computers?",
                       "Yes. One licence covers two computers of the same person,\nat home and at work."),
         "second": side("exports/support-2024-11.csv:41", "Can I use the licence on three computers?",
                        "Yes. One licence covers three computers of the same person,\nat home and at work."),
         "similarity": 0.91},
        {"first": side("handbook/备份.md [恢复]", "", "备份保存在 /var/backup 目录，凌晨两点自动生成，保留三十天。"),
         "second": side("handbook/旧.md [恢复]", "", "备份保存在 /data/backup 目录，凌晨三点自动生成，保留七天。"),
         "similarity": 0.86},
    ],
    "leaks": [
        {"first": side("exports/support-2024-11.csv:871", "如何导出发票？", "在“账单”页面点击“导出”，选择 PDF 格式。"),
         "second": side("客服/2024年第四季度/常见问题与标准答复（最终版）.jsonl:120", "如何导出发票",
                        "在“订单”页面点击“下载发票”，选择 PDF 格式。")},
    ],
    "quarantine": [
        {"origin": "客服/2024年第四季度/常见问题与标准答复（最终版）.jsonl:77",
         "reason": "the answer is empty; fill it in, or delete the row",
         "text": '{"问题": "退款多久到账？", "答案": ""}'},
        {"origin": "handbook/logo.png", "reason": "no kind of file that is read", "text": ""},
    ],
}  # fmt: skip


def tokens(*turns):
    """Tokens of (role, pieces, learned) turns, as a chat format makes them."""
    made = []
    for role, pieces, learned in turns:
        made += [("<|im_start|>", False, True), (role, False, False), ("\n", False, False)]
        made += [(piece, learned, False) for piece in pieces]
        made += [("<|im_end|>", learned, True), ("\n", False, False)]
    return made


SAMPLES = [
    Sample("客服/2024年第四季度/常见问题与标准答复（最终版）.jsonl:3", tokens(
        ("system", ["你", "是", "星河", "软件", "的", "客服", "。"], False),
        ("user", ["退款", "多久", "到", "账", "？"], False),
        ("assistant", ["一般", " ", "3", " ", "到", " ", "5", " ", "个", "工作日", "到", "账", "。"], True))),
    Sample("exports/support-2024-11.csv:12", tokens(
        ("user", ["How", " do", " I", " list", " all", " customers", "?"], False),
        ("assistant", ["```", "sql", "\n", "SELECT", " name", ",", "\t", "city", "\n", "FROM", " customers", ";", "\n",
                       "```", "\n\n", "This", " lists", " every", " cust", "omer", "."], True))),
]  # fmt: skip

EMPTY = {
    "inputs": 0, "divided": 0, "rows": {"train": 0, "valid": 0, "test": 0}, "quarantined": 0, "merged": 0, "removed": 0,
    "sources": [], "cut": {"rows": 0, "lost": 0, "worst": []}, "findings": [], "preferences": 0,
    "boilerplate": [], "conflicts": [], "near_duplicates": [], "leaks": [], "quarantine": [],
    "tokens": {"train": 0, "learned": 0, "longest": 0, "limit": 512, "histogram": [0] * BINS},
}  # fmt: skip


@pytest.fixture(scope="module")
def page():
    return Page(check_page(REPORT, SAMPLES, "星河客服 · support"))


# -- what is on it -------------------------------------------------------------------------------


def test_the_page_has_a_section_for_everything_that_was_found(page):
    assert page.headings == [
        "What goes in, and what becomes of it", "Findings", "How long the rows are", "Rows as the model sees them",
        "What cannot be used", "Asked on both sides", "Questions with different answers", "Almost the same",
        "Lines that many documents begin or end with", "Rows that were cut",
    ]  # fmt: skip
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    assert {a["href"].removeprefix("#") for a in page.all("a")} <= ids


def test_sections_without_content_are_left_out():
    assert Page(check_page(EMPTY, [], "empty")).headings == ["What goes in, and what becomes of it"]


def test_the_account_adds_up_in_its_sentence_and_in_every_row(page):
    assert (
        "6,270 + 842 divided = 5,630 to train + 704 to validate + 715 to test + 12 quarantined + 42 merged + 9 removed"
        in page.text
    )
    for s in [*SOURCES, REPORT | {"rows": sum(REPORT["rows"].values())}]:
        assert s["inputs"] + s["divided"] == s["rows"] + s["quarantined"] + s["merged"] + s["removed"]
        assert f"{s['rows']:,}" in page.text
    bar = [float(r["width"]) for r in page.all("rect") if r.get("height") == "10"]
    assert len(bar) == 6
    assert sum(bar) == pytest.approx(1000, abs=0.1)


def test_findings_stand_by_severity_with_their_counts(page):
    for heading in ("1 error", "3 warnings", "3 notes"):
        assert re.search(rf"\W{heading}\W", page.text)
    assert page.text.index("1 error") < page.text.index("3 warnings") < page.text.index("3 notes")


def test_the_histogram_names_the_lengths_of_every_bin_as_the_report_counts_them():
    limit = 100
    tally = Tally([Account("rows.jsonl")])
    for length in range(1, limit + 1):
        tally.lengths[length] = 1
    decisions = Decisions(np.empty(0, np.int8), np.empty(0, np.int8), np.empty(0, np.int64))
    report = build_report(tally, decisions, lambda row: None, DataSettings(max_tokens=limit))  # pyright: ignore[reportArgumentType]
    page = check_page(report, [], "t")
    bins = re.findall(r"<title>(\d+) to (\d+) tokens: (\d+) rows?</title>", page)
    assert len(bins) == BINS
    assert all(int(last) - int(first) + 1 == int(rows) for first, last, rows in bins)
    assert bins[-1][1] == "100"


def test_the_share_that_was_cut_is_said(page):
    assert "212 rows (3 %) were longer and cut" in page.text
    assert "… and 162 more in cut.jsonl" in page.text


def test_what_is_quarantined_is_shown_with_place_reason_and_text_and_how_many_there_are(page):
    for item in REPORT["quarantine"]:
        assert item["origin"] in page.text
        assert page.text.count(item["reason"]) >= 2
        assert item["text"] in page.text
    assert "12 rows or documents are in quarantine" in page.text
    assert "the first are shown, 2 in all" in page.text
    assert "All of them are in quarantine.jsonl" in page.text
    assert "files named on this page are in the run's folder" in page.text


def test_whether_the_training_fits_is_said_on_the_page_part_by_part():
    needs = Needs(3 * 10**8, 10**9, 10**6, 0, 0, 0, ("the head", 10**8))
    fit = Fit(needs, 8 * 10**9, None, 0, 10**6, 10**11, {}, seconds=90.0)
    shown = Page(check_page(REPORT, SAMPLES, "t", fit))
    assert "Whether the training fits" in shown.headings
    assert "it fits: 1.3 GB of the 8.0 GB of memory that can be had; the training takes about 1 min 30 s" in shown.text
    assert "weights that stay in memory1.0 GB" in shown.text.replace("\n", "")
    small = Page(check_page(REPORT, SAMPLES, "t", replace(fit, limit=10**9)))
    assert "1.3 GB of memory are needed and 1.0 GB can be had" in small.text
    assert "it fits" not in small.text


def test_learned_tokens_are_marked_and_the_pieces_are_the_row():
    shown = check_page(EMPTY, SAMPLES[1:], "t")
    row = shown.split('<div class="inside tokens"')[1].split("</div>")[0]
    marked = re.findall("<mark>(.*?)</mark>", row)
    assert len(marked) == 1
    learned = re.sub("<[^>]*>", "", marked[0])
    assert learned == "```sql⏎SELECT name,⇥city⏎FROM customers;⏎```⏎⏎This lists every customer.&lt;|im_end|&gt;"
    assert row.count("<span") == len(SAMPLES[1].tokens)
    assert row.count('class="s"') == sum(special for *_, special in SAMPLES[1].tokens)


def test_a_closed_row_shows_what_it_asks_and_a_text_how_it_begins():
    told = [("<|im_start|>", False, True), ("You are a helpful assistant", False, False), ("A text", True, False)]
    shown = check_page(EMPTY, [Sample("a:1", told, "How do I\nreset it?"), Sample("a:2", told[2:])], "t")
    first, second = re.findall("<summary>(.*?)</summary>", shown)
    assert "How do I reset it?" in first
    assert "helpful" not in first
    assert "A text" in second


def test_where_the_page_is_narrow_every_number_of_the_account_keeps_its_heading(page):
    headings = re.findall(r'<th scope="col">([^<]*)</th>', check_page(REPORT, [], "t"))[1:7]
    told = [cell["data-of"] for cell in page.all("td") if "data-of" in cell]
    assert told == headings * (len(SOURCES) + 1)


def test_a_mask_that_teaches_nothing_is_said():
    nothing = Sample("a:1", [("x", False, False)])
    assert "Nothing in these rows is learned." in check_page(EMPTY, [nothing], "t")
    assert "Nothing in these rows is learned." not in check_page(EMPTY, SAMPLES, "t")


def test_chinese_texts_carry_their_language(page):
    assert any(attrs.get("lang") == "zh" for attrs in page.all("h1"))
    assert page.all("html") == [{"lang": "en"}]


# -- nothing gets in or out ----------------------------------------------------------------------


def hostile(text):
    pair = {"first": side(text, text, text), "second": side(text, text + "x", "y" + text)}
    return REPORT | {
        "sources": [account(text, 1, (1, 0, 0))],
        "cut": {"rows": 1, "lost": 1, "worst": [{"origin": text, "tokens": 2, "lost": 1}]},
        "findings": [{"severity": "error", "message": text}],
        "boilerplate": [{"line": text, "documents": 3}],
        "conflicts": [{"question": text, "origin": text, "rows": 2, "answers": [text, text + "2"]}],
        "near_duplicates": [pair | {"similarity": 0.9}],
        "leaks": [pair],
        "quarantine": [{"origin": text, "reason": text, "text": text}],
    }  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text):
    samples = [Sample(text, [(text, True, False), (text, False, True)])]
    harmed, plain = (Page(check_page(hostile(t), [Sample(s, [(s, True, False), (s, False, True)])], t))
                     for t, s in ((text, samples[0].origin), ("plain", "plain")))  # fmt: skip
    assert_inert(harmed, plain)
    assert harmless(text) in harmed.text


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=30))
def test_whatever_the_text_the_page_is_whole_and_can_be_written(text):
    page = check_page(hostile(text), [Sample(text, [(text, True, False)])], text)
    assert page.encode("utf-8")
    assert len(Page(page).all("script")) == 1


def test_the_page_allows_exactly_its_own_style_and_script():
    assert_closed(check_page(REPORT, SAMPLES, "t"))


# -- as the dataset room makes it ----------------------------------------------------------------


def test_the_report_of_the_dataset_room_is_drawn_whole():
    asked = ["What is a shard?", "分片是什么？", "What is a shard??"]
    rows = [Example((Message("user", q), Message("assistant", a, learn=True)), Origin("faq.jsonl", i + 1))
            for i, (q, a) in enumerate(zip(asked, ["A part.", "一部分。", "A piece."], strict=True))]  # fmt: skip
    made = Decisions(np.zeros(3, np.int8), np.array([0, 0, 2], np.int8), np.full(3, -1))
    made.conflicts, made.questions, made.leaks = [np.array([0, 2])], 1, [(2, 0)]
    tally = Tally([Account("faq.jsonl", inputs=3, rows={"train": 2, "valid": 0, "test": 1})])
    tally.near.append((0, 2, 0.875))
    tally.accounts[0].quarantined = 1
    tally.count_reason(Quarantined(Origin("faq.jsonl", 4), "no known form", '{"a": 1}'))
    tally.boilerplate["版权所有"] = 4
    tally.cut.add("faq.jsonl:1", 100, 36)
    tally.lengths.update({64: 2, 30: 1})
    shown = Page(check_page(build_report(tally, made, rows.__getitem__, DataSettings(max_tokens=64)), SAMPLES, "faq"))
    assert len(shown.headings) == 10
    assert "1 row or document is in quarantine" in shown.text
    assert "88 % alike" in shown.text
    assert "1 row (33 %) was longer and cut" in shown.text


def test_a_large_report_stays_a_page_of_bounded_size():
    long = "数据库的备份与恢复需要注意以下几点。" * 110
    pair = {"first": side("a:1", long[:2000], long[5:2005]), "second": side("b:1", long[1:2001], long[:2000])}
    report = REPORT | {
        "quarantine": [{"origin": "很长.jsonl:1", "reason": "…", "text": "长" * 301}] * 50,
        "near_duplicates": [pair | {"similarity": 0.9}] * 50,
        "cut": {"rows": 100_000, "lost": 1, "worst": [{"origin": "很长.jsonl:1", "tokens": 600, "lost": 88}] * 50},
    }  # fmt: skip
    assert len(check_page(report, SAMPLES, "t")) < 2_000_000
