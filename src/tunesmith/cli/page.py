"""The report of prepare and check as one HTML page that loads nothing and runs nobody's text."""

from __future__ import annotations

import base64
import difflib
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any

from tunesmith.cli import words
from tunesmith.cli.console import PICTURES
from tunesmith.cli.fit_table import fit_rows, fit_verdict
from tunesmith.cli.prose import WIDE

if TYPE_CHECKING:
    from tunesmith.stages import Sample
    from tunesmith.training.fit import Fit

FATES = (
    ("train", "to train", "the model learns from these"),
    ("valid", "to validate", "choose the best checkpoint"),
    ("test", "to test", "measure the result; never trained on"),
    ("quarantined", "quarantined", "cannot be used; each with its reason in quarantine.jsonl"),
    ("merged", "merged", "repeat another row exactly; listed in removed.jsonl"),
    ("removed", "removed", "left out; each with its reason in removed.jsonl"),
)
"""What becomes of rows: the key in the report, what people call it, what it means."""
SEVERITIES = (
    ("error", "✗", "to mend before training"),
    ("warning", "!", "worth a look"),
    ("note", "•", "good to know"),
)

INVISIBLE = [0x61C, 0x180E, 0x200B, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF,
             *range(0xE0000, 0xE0080)]  # fmt: skip
HARMLESS = PICTURES | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD) | {c: f"⟨U+{c:04X}⟩" for c in INVISIBLE}
"""Control characters, halves of surrogate pairs and marks that turn or hide text, as something to see."""

SENTENCES = re.compile(r"[^。！？；.!?;\n]+[。！？；.!?;\n]*|[。！？；.!?;\n]+")
UNITS = re.compile(rf"[{WIDE}]|[^\W{WIDE}]+|\s+|.", re.DOTALL)
"""What two texts are compared by: sentences, and where these differ words, Chinese characters, signs, spaces."""
SLOW = 100_000
"""Above that many pairs of units the frequent ones do not count at first: 0.03 s, not 0.6, for 2,000 characters."""

Marked = list[tuple[bool, str]]
"""A text in pieces: (differs from the other text, piece)."""


def check_page(report: dict[str, Any], samples: Sequence[Sample], title: str, fit: Fit | None = None) -> str:
    """The page: ``report`` as `build_report` makes it, ``samples`` are rows of tokens, ``fit`` what training takes."""
    import jinja2

    from tunesmith.dataset.report import SHOWN
    from tunesmith.dataset.split import PARTS

    environment = jinja2.Environment(
        autoescape=True, finalize=harmless, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": lambda n: f"{n:,}", "many": words.how_many, "percent": words.percent,
        "language": language, "brief": _brief, "sha256": _sha256,
    }  # fmt: skip
    template = environment.from_string(resources.files("tunesmith.cli").joinpath("page.html").read_text("utf-8"))
    total = report["inputs"] + report["divided"]
    counts = report["rows"] | {key: report[key] for key in ("quarantined", "merged", "removed")}
    return template.render(
        title=title, report=report, total=total, shown=SHOWN, tokens=report["tokens"],
        fates=[(key, name, meaning, counts[key]) for key, name, meaning in FATES if key in PARTS or counts[key]],
        bar=_bar([(key, counts[key]) for key, _, _ in FATES]),
        findings=_findings(report["findings"]),
        fit=fit and {"fits": not fit.lacking, "verdict": fit_verdict(fit), "rows": fit_rows(fit)},
        lengths=_lengths(report),
        rows=[_row(sample) for sample in samples],
        near=[_compared(pair) for pair in report["near_duplicates"]],
        leaks=[_compared(pair) for pair in report["leaks"]],
        cut=report["cut"]["worst"],
    )  # fmt: skip


# -- text ----------------------------------------------------------------------------------------


def harmless(value: Any) -> Any:
    """``value``; in a text, what could turn, hide or break the page stands as something to see."""
    return value.translate(HARMLESS) if type(value) is str else value


def language(text: str) -> str:
    """For the attribute ``lang``: which letters a browser should draw; empty where any will do."""
    if re.search("[\u3040-\u30ff]", text):
        return "ja"
    if re.search("[\uac00-\ud7af]", text):
        return "ko"
    return "zh" if re.search("[\u3400-\u9fff\U00020000-\U0003ffff]", text) else ""


def _brief(text: str) -> str:
    """The beginning of a text in one line."""
    line = " ".join(text[:400].split())
    return line if len(line) <= 90 else line[:90] + "…"


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# -- what is drawn -------------------------------------------------------------------------------


def _bar(counts: Sequence[tuple[str, int]]) -> list[tuple[str, float, float]]:
    """(key, x, width) of every part of a bar 1000 wide; what is there at all can be seen."""
    total = sum(n for _, n in counts)
    widths = [(key, max(1000 * n / total, 6.0)) for key, n in counts if n]
    scale = 1000 / sum(width for _, width in widths) if widths else 0.0
    parts, x = [], 0.0
    for key, width in widths:
        parts.append((key, round(x, 2), round(width * scale, 2)))
        x += width * scale
    return parts


def _findings(findings: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    grouped = [
        {"severity": severity, "sign": sign, "meaning": meaning,
         "messages": [f["message"] for f in findings if f["severity"] == severity]}
        for severity, sign, meaning in SEVERITIES
    ]  # fmt: skip
    return [group for group in grouped if group["messages"]]


def _lengths(report: dict[str, Any]) -> dict[str, Any]:
    """The histogram: of every bin the lengths, the rows, and their height of 100; half of the rows have at
    most ``half`` tokens."""
    bins, limit = report["tokens"]["histogram"], report["tokens"]["limit"]
    total, most, seen, half = sum(bins), max([*bins, 1]), 0, limit
    drawn = []
    for number, count in enumerate(bins):
        # A row of `length` tokens is in bin (length - 1) * bins // limit.
        first, last = -(-number * limit // len(bins)) + 1, -(-(number + 1) * limit // len(bins))
        drawn.append(
            {"first": first, "last": last, "rows": count, "height": max(100 * count / most, 1) if count else 0}
        )
        seen += count
        if 2 * seen >= total and half == limit:
            half = last
    cut = min(report["cut"]["rows"], bins[-1]) if bins else 0
    return {
        "bins": drawn, "total": total, "most": most, "half": half, "cut": cut, "cut_height": 100 * cut / most,
        "ticks": [limit * quarter // 4 for quarter in range(4)],
        "share_cut": _share(report["cut"]["rows"], total),
    }  # fmt: skip


def _share(count: int, total: int) -> str:
    share = count / total if total else 0.0
    return words.percent(share) if not count or share >= 0.01 else f"{100 * share:.2g} %"


def _row(sample: Sample) -> dict[str, Any]:
    """A row of tokens in runs: [(learned, [(text, special, a line ends here)])]."""
    return {
        "origin": sample.origin,
        "count": len(sample.tokens),
        "learned": sum(learned for _, learned, _ in sample.tokens),
        "begins": sample.question or "".join(text for text, _, special in sample.tokens[:200] if not special),
        "language": language("".join(text for text, _, _ in sample.tokens)),
        "runs": [
            (learned, [(_pictured(text), special, text.endswith("\n")) for text, _, special in run])
            for learned, run in groupby(sample.tokens, key=lambda token: token[1])
        ],
    }


def _pictured(text: str) -> str:
    return text.replace("\n", "⏎").replace("\t", "⇥")


# -- two texts side by side ----------------------------------------------------------------------


def _compared(pair: dict[str, Any]) -> dict[str, Any]:
    """A pair of rows whose questions and answers are `Marked`."""
    sides = [dict(pair["first"]), dict(pair["second"])]
    for key in ("question", "answer"):
        for side, marked in zip(sides, differences(sides[0][key], sides[1][key]), strict=True):
            side[key + "_marked"] = marked
    return {"sides": sides, "similarity": pair.get("similarity")}


def differences(first: str, second: str) -> tuple[Marked, Marked]:
    """Both texts in pieces, marked where they differ. Joined, the pieces are the texts."""
    blocks = list[tuple[bool, str, str]]()
    for same, a, b in _blocks(SENTENCES.findall(first), SENTENCES.findall(second)):
        blocks += [(same, a, b)] if same else _blocks(UNITS.findall(a), UNITS.findall(b))
    return _pieces([(not same, a) for same, a, _ in blocks]), _pieces([(not same, b) for same, _, b in blocks])


def _blocks(a: list[str], b: list[str]) -> list[tuple[bool, str, str]]:
    """(is the same, text of a, text of b), one after the other."""
    begin = _same(a, b)
    end = _same(a[begin:][::-1], b[begin:][::-1])
    a, start, rest = a[begin : len(a) - end], a[:begin], a[len(a) - end :]
    b = b[begin : len(b) - end]
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=len(a) * len(b) > SLOW)
    middle = [(tag == "equal", "".join(a[i:j]), "".join(b[k:m])) for tag, i, j, k, m in matcher.get_opcodes()]
    return [(True, "".join(start), "".join(start)), *middle, (True, "".join(rest), "".join(rest))]


def _same(a: Sequence[str], b: Sequence[str]) -> int:
    """How many units both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _pieces(blocks: Marked) -> Marked:
    """Neighbours joined, none empty; a space between two differences is part of them."""
    blocks = [(differs, text) for differs, text in blocks if text]
    return [(differs, "".join(text for _, text in run)) for differs, run in groupby(_bridged(blocks), lambda b: b[0])]


def _bridged(pieces: Marked) -> Iterator[tuple[bool, str]]:
    for i, (differs, text) in enumerate(pieces):
        between = 0 < i < len(pieces) - 1 and pieces[i - 1][0] and pieces[i + 1][0]
        yield differs or (between and text.isspace()), text
