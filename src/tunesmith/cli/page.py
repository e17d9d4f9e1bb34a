"""The report of prepare and check as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.cli import words
from tunesmith.cli.fit_table import fit_rows, fit_verdict
from tunesmith.pages.differences import differences
from tunesmith.pages.template import render
from tunesmith.pages.tokens import token_row

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


def check_page(report: dict[str, Any], samples: Sequence[Sample], title: str, fit: Fit | None = None) -> str:
    """The page: ``report`` as `build_report` makes it, ``samples`` are rows of tokens, ``fit`` what training takes."""
    from tunesmith.dataset.report import SHOWN
    from tunesmith.dataset.split import PARTS

    total = report["inputs"] + report["divided"]
    counts = report["rows"] | {key: report[key] for key in ("quarantined", "merged", "removed")}
    return render(
        "cli/page.html",
        title=title, report=report, total=total, shown=SHOWN, tokens=report["tokens"],
        fates=[(key, name, meaning, counts[key]) for key, name, meaning in FATES if key in PARTS or counts[key]],
        bar=_bar([(key, counts[key]) for key, _, _ in FATES]),
        findings=_findings(report["findings"]),
        fit=fit and {"fits": not fit.lacking, "verdict": fit_verdict(fit), "rows": fit_rows(fit)},
        lengths=_lengths(report),
        rows=[token_row(s.origin, s.tokens, s.question) for s in samples],
        near=[_compared(pair) for pair in report["near_duplicates"]],
        leaks=[_compared(pair) for pair in report["leaks"]],
        cut=report["cut"]["worst"],
    )  # fmt: skip


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


def _compared(pair: dict[str, Any]) -> dict[str, Any]:
    """A pair of rows whose questions and answers are `Marked`."""
    sides = [dict(pair["first"]), dict(pair["second"])]
    for key in ("question", "answer"):
        for side, marked in zip(sides, differences(sides[0][key], sides[1][key]), strict=True):
            side[key + "_marked"] = marked
    return {"sides": sides, "similarity": pair.get("similarity")}
