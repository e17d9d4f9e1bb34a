"""Results in sentences for people: did it learn, is it worth it, what did it forget.

The terminal, the model card and the report show these same sentences, so they cannot say different things. Whether two
models differ is decided in `statistics` alone: nothing is called better or worse here because its number is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.evaluation.statistics import FEWEST
from tunesmith.pages.words import how_many, percent

Measured = dict[str, Any]
"""What results.json has of one model and task: score, n, interval, difference …"""

MARGIN = 0.1
""""As good as" and "nothing forgotten" are said only where a worse difference than this can be ruled out."""
AGREES = 0.7
"""A judge that says the same of fewer pairs when asked in the other order is not worth much; chance gives a half."""
PARTIAL = ("overlap", "function")
"""Tasks whose scores are more than right and wrong: their mean is not a share of right answers."""
Tone = Literal["good", "bad", "unsure", "note"]
Seen = Literal["untested", "better", "worse", "alike", "unsure"]
TONES: dict[Seen, Tone] = {"untested": "note", "better": "good", "worse": "bad", "unsure": "unsure"}
"""Of what a difference shows; whether it is good that two are alike depends on what was hoped for."""
TOO_MANY = 100_000
"""More questions than anybody would write are not counted out."""


@dataclass(frozen=True)
class Sentence:
    text: str
    tone: Tone
    about: Literal["answers", "loss", "retrieval", "forgetting", "memorising", "grading", "checkpoints"]


def verdict(results: Sequence[dict[str, Any]]) -> list[Sentence]:
    """What ``results`` say of tuned against base; the first sentence answers the question everybody has. Empty where
    one of the two was not measured."""
    by_name: dict[str, dict[str, Any]] = {result.get("model", ""): result for result in results}
    base, tuned = by_name.get("base"), by_name.get("tuned")
    if base is None or tuned is None:
        return []
    tasks = tasks_of(results)
    answers = [said for task in tasks if (said := _answers(task, base, tuned, several=len(tasks) > 1))]
    learned = answers or _loss(base, tuned)
    worth = _worth(tasks, by_name.get("base+retrieval", {}), tuned)
    if worth and learned and (worth[0].tone, learned[0].tone) == ("bad", "good"):
        learned, worth = worth, learned  # better than the base, and still not worth it
    return [
        *learned[:1], *worth, *learned[1:], *_forgot(base, tuned), *_memorised(tuned), *_ungraded(results),
        *_left_out(base), *_checkpoints(results),
    ]  # fmt: skip


def tasks_of(results: Sequence[dict[str, Any]]) -> list[str]:
    """The names of all tasks, in the recipe's order."""
    return list(dict.fromkeys(name for result in results for name in result.get("tasks", {})))


# -- did it learn ----------------------------------------------------------------------------------


def _answers(task: str, base: dict[str, Any], tuned: dict[str, Any], *, several: bool) -> Sentence | None:
    after = tuned.get("tasks", {}).get(task)
    before = base.get("tasks", {}).get(task) if task != "judge" else after  # a judge saw both at once
    if before is None or after is None:
        return None
    if not _scored(before) or not _scored(after):
        text = f"No answer could be graded{_of(task, several)}, which says nothing about either model."
        return Sentence(text, "unsure", "answers")
    return _judged(after) if task == "judge" else _compared(task, before, after, several=several)


def _compared(task: str, before: Measured, after: Measured, *, several: bool) -> Sentence:
    difference, at = _difference(before, after), f" at {task}" if several else ""
    asked = how_many(after["n"], "question")
    scores = (
        f"it scores {percent(after['score'])} on {asked}, base {percent(before['score'])}"
        if task in PARTIAL
        else f"it answers {percent(after['score'])} of {asked} right, base {percent(before['score'])}"
    )
    if difference is None:
        return Sentence(f"Whether tuned is better{at} was not tested: {scores}.", "note", "answers")
    if difference["verdict"] == "better":
        return Sentence(f"Tuned is better{at}: {scores}{_by(difference, 'more')}.", "good", "answers")
    if difference["verdict"] == "worse":
        return Sentence(f"Tuned is worse{at}: {scores}{_by(difference, 'less')}.", "bad", "answers")
    return Sentence(_undecided(before, after, difference, _of(task, several)), "unsure", "answers")


def _undecided(before: Measured, after: Measured, difference: Measured, of: str) -> str:
    n, clusters = difference["n"], difference.get("clusters")
    first, second = percent(before["score"]), percent(after["score"])
    both = f"both {first}" if first == second else f"base {first}, tuned {second}"
    if clusters is not None and clusters < min(FEWEST, n):
        return (
            f"No difference can be told from chance{of} ({both}): all {n:,} questions are about "
            f"{how_many(clusters, 'document or table', 'documents or tables')}, and it takes {FEWEST}."
        )
    return f"No difference can be told from chance on {how_many(n, 'question')}{of} ({both}){_would_need(difference)}."


def _judged(after: Measured) -> Sentence:
    difference, agreement = _difference({"score": 0.5}, after), after.get("agreement")
    pairs = f"{percent(after['score'])} of {how_many(after['n'], 'pair')}, 50 % being a tie"
    said = f"; asked in the other order it says the same of {percent(agreement)}" if agreement is not None else ""
    if agreement is not None and agreement < AGREES:
        said += ", which is too few to rely on"
    if difference is None:
        return Sentence(f"The judge prefers tuned in {pairs}; that was not tested{said}.", "note", "answers")
    if difference["verdict"] == "not distinguishable":
        text = f"The judge sees no difference that can be told from chance: it prefers tuned in {pairs}"
        return Sentence(f"{text}{_would_need(difference)}{said}.", "unsure", "answers")
    better = difference["verdict"] == "better"
    text = f"The judge prefers {'tuned' if better else 'base'}: tuned is ahead in {pairs}{said}."
    unsure = agreement is not None and agreement < AGREES
    return Sentence(text, "unsure" if unsure else "good" if better else "bad", "answers")


def _loss(base: dict[str, Any], tuned: dict[str, Any]) -> list[Sentence]:
    """What rows cost that neither model saw. Older results have no interval for it: then only the number is told."""
    before, after = base.get("loss"), tuned.get("loss")
    if before is None or after is None:
        return []
    gain = tuned.get("gain")
    seen = gain["verdict"] if gain else "better" if after < before else "worse"
    numbers = f"loss {before:.3f} → {after:.3f}"
    if gain:
        numbers += _less(gain, seen)
    asked = "no answers were graded, so whether they are right is not known"
    text = "Tuned expects text it never saw"
    if seen == "better":
        return [Sentence(f"{text} better than base does ({numbers}); {asked}.", "good", "loss")]
    if seen == "worse" or gain is None:
        return [Sentence(f"{text} no better than base does ({numbers}); {asked}.", "bad", "loss")]
    told = f"Whether tuned expects text it never saw better than base does cannot be told on {gain['n']} rows"
    return [Sentence(f"{told} ({numbers}); {asked}.", "unsure", "loss")]


def _less(gain: Measured, seen: str) -> str:
    """ ", 0.277 to 0.841 less"; nothing of so few rows that every difference is possible."""
    low, high = gain["interval"]
    if seen != "not distinguishable":
        ends = sorted((abs(low), abs(high)))
        return f", {ends[0]:.3f} to {ends[1]:.3f} {'more' if seen == 'worse' else 'less'}"
    return "" if gain["clusters"] < FEWEST else f", between {-low:.3f} more and {high:.3f} less"


# -- is it worth it --------------------------------------------------------------------------------


def _worth(tasks: Sequence[str], retrieval: dict[str, Any], tuned: dict[str, Any]) -> list[Sentence]:
    """Tuned against the base that may look into the documents, for the first task that both were asked."""

    def scored(result: dict[str, Any], task: str) -> bool:
        return _scored(result.get("tasks", {}).get(task))

    asked = [task for task in tasks if scored(retrieval, task) and scored(tuned, task)]
    if not asked:
        return []
    task = asked[0]
    before, after = retrieval["tasks"][task], tuned["tasks"][task]
    difference = after.get("over_retrieval", {})
    ahead = "base with the documents at hand"
    first, second = percent(before["score"]), percent(after["score"])
    does = f"scores {first}" if task in PARTIAL else f"answers {first} right"
    most = f"{_points(difference['interval'][1])} more at most" if "interval" in difference else ""
    texts: dict[Seen, str] = {
        "untested": f"With the documents at hand base {does}, tuned without them {second}; that was not tested",
        "better": f"It was worth it: {ahead} {does}, tuned {second}{_by(difference, 'more')}",
        "worse": f"You did not need to fine-tune: {ahead} answers better ({first}, tuned {second})",
        "alike": f"You did not need to fine-tune: {ahead} answers as well ({first}, tuned {second}, {most})",
        "unsure": f"Whether you needed to fine-tune cannot be told from {_asked(difference)}: {ahead} {does}, "
        f"tuned {second}{_would_need(difference)}",
    }
    seen = _seen(difference, lambda low, high: high <= MARGIN)
    return [Sentence(f"{texts[seen]}.", TONES.get(seen, "bad"), "retrieval")]


# -- what did it forget, what did it copy ----------------------------------------------------------


def _forgot(base: dict[str, Any], tuned: dict[str, Any]) -> list[Sentence]:
    before, after = base.get("general"), tuned.get("general")
    if before is None or after is None or not _scored(before) or not _scored(after):
        return []
    change = f"general questions {percent(before['score'])} → {percent(after['score'])}"
    difference = _difference(before, after) or {}
    least = _points(max(0.0, -difference["interval"][0])) if "interval" in difference else ""
    texts: dict[Seen, str] = {
        "untested": f"Whether it forgot was not tested: {change}",
        "better": f"It forgot nothing on the whole: {change}{_by(difference, 'more')}",
        "worse": f"It forgot: {change}{_by(difference, 'less')}{_most(before, after)}",
        "alike": f"It forgot nothing that can be told from chance: {change} (at most {least} less)",
        "unsure": f"Whether it forgot cannot be told from {_asked(difference)}: {change}{_would_need(difference)}",
    }
    seen = _seen(difference, lambda low, high: low >= -MARGIN)
    return [Sentence(f"{texts[seen]}.", TONES.get(seen, "good"), "forgetting")]


def _most(before: Measured, after: Measured) -> str:
    """The part of the general set that fell most: few questions each, so it is a hint and not a test."""
    first, second = before.get("by", {}), after.get("by", {})
    fell = {name: first[name]["score"] - second[name]["score"] for name in first if name in second}
    if not fell or (worst := max(fell, key=lambda name: fell[name])) is None or fell[worst] <= 0:
        return ""
    return f", most in {worst}: {percent(first[worst]['score'])} → {percent(second[worst]['score'])}"


def _memorised(tuned: dict[str, Any]) -> list[Sentence]:
    alarm = tuned.get("memorised", {}).get("alarm")
    return [Sentence(alarm, "bad", "memorising")] if alarm else []


# -- what the numbers are of -----------------------------------------------------------------------


def _ungraded(results: Sequence[dict[str, Any]]) -> list[Sentence]:
    counts: dict[str, int] = {}
    for result in results:
        for name, measured in [*result.get("tasks", {}).items(), ("general", result.get("general", {}))]:
            counts[name] = counts.get(name, 0) + measured.get("ungraded", 0)
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        return []
    which = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    answers = how_many(sum(counts.values()), "answer")
    text = f"{answers} could not be graded and were counted neither as right nor as wrong ({which})."
    return [Sentence(text, "note", "grading")]


def _left_out(base: dict[str, Any]) -> list[Sentence]:
    said = base.get("left_out")
    return [Sentence(f"{said[0].upper()}{said[1:]}.", "unsure", "grading")] if said else []


def _checkpoints(results: Sequence[dict[str, Any]]) -> list[Sentence]:
    if not any(result.get("model", "").startswith("step-") for result in results):
        return []
    text = "Tuned is the checkpoint that was best on validation rows, or the last where there were none; all that " \
           "stands here was measured on test rows."  # fmt: skip
    return [Sentence(text, "note", "checkpoints")]


# -- words -----------------------------------------------------------------------------------------


def _scored(measured: Measured | None) -> bool:
    return measured is not None and measured.get("score") is not None and measured.get("n", 0) > 0


def _difference(before: Measured, after: Measured) -> Measured | None:
    """Of results from before there were differences, what their p-value says."""
    if "difference" in after or after.get("p_value") is None:
        return after.get("difference")
    mean = after["score"] - before["score"]
    said = "not distinguishable" if after["p_value"] >= 0.05 else "better" if mean > 0 else "worse"
    return {"verdict": said, "mean": mean, "n": after["n"]}


def _seen(difference: Measured, ruled_out: Callable[[float, float], bool]) -> Seen:
    """What an interval shows; "alike" where it has ruled out a difference that would matter."""
    if not difference:
        return "untested"
    if difference["verdict"] != "not distinguishable":
        return difference["verdict"]
    return "alike" if "interval" in difference and ruled_out(*difference["interval"]) else "unsure"


def _of(task: str, several: bool) -> str:
    return f" in {task}" if several else ""


def _by(difference: Measured, more: str) -> str:
    """ " (12 to 22 points less)"; nothing where no interval is known."""
    return f" ({_points(*difference['interval'])} {more})" if "interval" in difference else ""


def _points(*shares: float) -> str:
    """Percentage points: 12 to 22 points; with a decimal below 1."""
    ends = sorted(abs(share) for share in shares)
    digits = 1 if ends[0] < 0.01 else 0
    said = list(dict.fromkeys(f"{100 * end:.{digits}f}" for end in ends))
    if said[0] == "0.0" and len(said) > 1:
        return f"up to {said[1]} points"
    return " to ".join(said) + (" point" if said == ["1"] else " points")


def _asked(difference: Measured) -> str:
    return how_many(difference.get("n", 0), "question")


def _would_need(difference: Measured) -> str:
    needed = difference.get("needed")
    if needed is None or needed <= difference["n"]:
        return ""
    if needed > TOO_MANY:
        return f"; one of this size would take more than {TOO_MANY:,} such questions to tell"
    step = 10 ** max(0, len(str(needed)) - 2)
    about = -(-needed // step) * step
    return f"; about {about:,} such questions would be needed to tell one of this size"
