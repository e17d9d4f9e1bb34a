"""Evaluations as they could have come out, for the tests of their report: (results, samples, events)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tunesmith.progress import Progress

UNSURE = "not distinguishable"


@dataclass(frozen=True)
class Said:
    """A sentence of a verdict."""

    text: str
    tone: str = "good"


def difference(mean, low, high, n=200, needed=25):
    verdict = "better" if low > 0 else "worse" if high < 0 else UNSURE
    return {"mean": mean, "interval": [low, high], "p_value": 0.4 if verdict == UNSURE else 1e-9, "n": n,
            "clusters": n // 4, "needed": needed, "verdict": verdict}  # fmt: skip


def scored(score, low, high, n=200, ungraded=0, **more):
    return {"score": score, "n": n, "interval": [low, high], "ungraded": ungraded, **more}


def measured(model, loss=None, **more):
    known = {} if loss is None else {"loss": loss, "perplexity": 2.718282**loss}
    return {"model": model, "split": "test", **known, **more}


def line(model, task, number, question, answer, reference, score, reason):
    """One of samples.jsonl."""
    return {"model": model, "task": task, "id": f"row-{number}", "cluster": f"t{number // 4}",
            "origin": f"dev.jsonl:{number + 1}", "question": question, "answer": answer, "reference": reference,
            "score": score, "right": score is not None and score >= 0.5, "reason": reason}  # fmt: skip


def training(steps, every, start=4.2, end=0.06, *, valid=True):
    """Events of a training that falls from one loss to another; the validation rises again at the end."""
    noise = random.Random(7)
    yield Progress("stage", stage="train")
    yield Progress("start", stage="train", step=0, steps=steps)
    best = start
    if valid:
        yield Progress("validation", stage="train", step=0, steps=steps, loss=start)
    for step in range(1, steps + 1):
        mean = end + (start - end) * 2.718 ** (-9 * step / steps)
        yield Progress("step", stage="train", step=step, steps=steps, loss=mean * noise.uniform(0.7, 1.35))
        if valid and (step % every == 0 or step == steps):
            loss = mean * 1.05 + 0.2 * max(step / steps - 0.8, 0)
            yield Progress("validation", stage="train", step=step, steps=steps, loss=loss, best=loss < best)
            best = min(best, loss)


def sql():
    """Questions to SQL with five checkpoints: base knows nothing, tuned most."""
    kinds = {"arithmetic": 0.5, "knowledge": 0.35, "instruction": 0.45, "en": 0.5, "zh": 0.34}
    before = scored(0.42, 0.36, 0.48, 240, by={kind: {"score": s, "n": 40} for kind, s in kinds.items()})
    after = scored(0.38, 0.32, 0.44, 240, by={kind: {"score": s - 0.04, "n": 40} for kind, s in kinds.items()},
                   difference=difference(-0.04, -0.09, 0.01, 240, needed=910))  # fmt: skip
    checkpoints = ((100, 0.301), (200, 0.114), (300, 0.079), (400, 0.061), (500, 0.062))
    results = [
        measured("base", 1.602, tasks={"sql": scored(0.03, 0.013, 0.062, 199, ungraded=1)}, general=before),
        *(measured(f"step-{step:06d}", loss) for step, loss in checkpoints),
        measured(
            "tuned", 0.061, general=after,
            tasks={"sql": scored(0.815, 0.755, 0.863, difference=difference(0.785, 0.72, 0.84))},
            memorised={"copied": 0.04, "n": 200, "longest": 83, "train_loss": 0.051, "loss": 0.061, "alarm": ""},
        ),
    ]  # fmt: skip
    samples = []
    for i in range(200):
        decile = f"\"decile\" = '{i % 9}'"
        question = f't("name", "years", "area", {decile}, "roll")\nWhich school in Onehunga has a decile of {i % 9}?'
        gold = f'SELECT "name" FROM t WHERE {decile} AND "area" = \'Onehunga\''
        prose = f"The school in Onehunga with a decile of {i % 9} is a school that has a decile of {i % 9}."
        score, right = None if i == 9 else float(i % 34 == 0), i % 16 > 2
        samples.append(line("base", "sql", i, question, prose, gold, score, "same rows" if score else "no SQL"))
        answer, reason = (gold, "same rows") if right else (gold.replace("name", "years"), "different rows")
        samples.append(line("tuned", "sql", i, question, answer, gold, float(right), reason))
    return results, samples, list(training(500, 100))


def character():
    """A character in Chinese: graded by overlap and by a judge, with retrieval too, and an alarm."""

    def overlap(score, half, gain=None):
        compared = {} if gain is None else {"difference": difference(gain, gain - 0.04, gain + 0.04, 120, needed=640)}
        return {"overlap": scored(score, score - half, score + half, 120, **compared)}

    judged = scored(0.62, 0.54, 0.7, 118, ungraded=2, difference=difference(0.12, 0.04, 0.2, 118), agreement=0.87)
    alarm = "It memorised: 31 % of its answers repeat training rows word for word; fewer epochs would help"
    results = [
        measured("base", 3.41, tasks=overlap(0.21, 0.03)),
        measured("base+retrieval", tasks=overlap(0.24, 0.04, 0.03)),
        measured(
            "tuned", 2.92, tasks=overlap(0.33, 0.04, 0.12) | {"judge": judged},
            memorised={"copied": 0.31, "n": 120, "longest": 64, "train_loss": 0.4, "loss": 2.92, "alarm": alarm},
        ),
        measured("tuned+retrieval", tasks=overlap(0.3, 0.04, 0.09)),
    ]  # fmt: skip
    after, reference = "嘘——许愿说破了，是不灵的。", "嘘——都说许愿说破是不灵的。"
    samples = []
    for i in range(120):
        question = f"第{i}回：小姐，别的秀女都在求中选，唯有咱们小姐想被撂牌子，菩萨一定记得真真儿的。"
        answers = (
            ("base", 0.2, "作为一个人工智能助手，我可以帮助您回答问题。"),
            ("base+retrieval", 0.25, "我可以帮助您许愿。"),
            ("tuned", 0.7 if i % 3 else 0.15, after),
            ("tuned+retrieval", 0.6, "嘘——都说愿望说破是不灵的。"),
        )
        for model, score, answer in answers:
            samples.append(line(model, "overlap", i, question, answer, reference, score, f"F1 {score:.2f}"))
        samples.append(line("base", "judge", i, question, answers[0][2], reference, None, ""))
        score = (1.0, 0.5, 0.0, None)[i % 4]
        samples.append(line("tuned", "judge", i, question, after, reference, score, "两次都选了它" if score else ""))
    return results, samples, list(training(84, 21, 3.6, 2.6))


def loss_only():
    """No task, and no validation rows."""
    results = [measured("base", 2.81), measured("step-000040", 2.66), measured("tuned", 2.61)]
    return results, [], list(training(60, 20, 2.8, 2.5, valid=False))


def nothing():
    """Base and tuned cannot be told apart; the answers are long."""
    same = difference(0.012, -0.06, 0.085, 300, needed=13_500)
    results = [
        measured("base", 1.2, tasks={"contains": scored(0.533, 0.477, 0.589, 300)}),
        measured("tuned", 1.19, tasks={"contains": scored(0.545, 0.488, 0.6, 300, difference=same)}),
    ]
    samples, chance = [], random.Random(3)
    words = ["the", "backup", "runs", "every", "night", "and", "keeps", "thirty", "days", "of", "data"]
    for i in range(300):
        question, text = f"What does the handbook say about backups, part {i}?", " ".join(chance.choices(words, k=120))
        for model, answer in (("base", text), ("tuned", text.replace("night", "day"))):
            score = float(chance.random() < 0.54)
            samples.append(line(model, "contains", i, question, answer, "thirty days", score, "contained"))
    return results, samples, list(training(300, 100, 1.9, 1.3))


def many(count, length):
    """Samples with long Chinese answers that differ in every tenth character from their reference."""
    text = "数据库的备份与恢复需要注意以下几点" * (length // 17 + 1)
    other = "".join("甲" if i % 10 == 0 else c for i, c in enumerate(text))
    for i in range(count):
        for model, right in (("base", (1,)), ("tuned", (0, 2, 3))):
            score = float(i % 10 in right)
            yield line(model, "contains", i, text[:length], text[:length], other[:length], score, "contained")


ABOUT = {
    "base": "SmolLM2-135M-Instruct", "date": "2026-11-22", "rows": {"train": 5879, "valid": 120, "test": 200},
    "settings": {"train.epochs": "1", "train.learning_rate": "1e-3", "train.lora.rank": "16"},
}  # fmt: skip
VERDICTS = {
    "sql": [
        Said("It learned: sql rises from 3.0 % to 81.5 %, better by 78.5 points (72.0 to 84.0)."),
        Said("General questions: not distinguishable at n = 240.", "unsure"),
        Said("1 answer could not be graded.", "note"),
    ],
    "character": [
        Said("It learned: overlap rises from 21.0 % to 33.0 %."),
        Said("A judge prefers tuned in 62.0 % of the questions."),
        Said("Retrieval alone is not distinguishable from base.", "unsure"),
        Said("It memorised: 31 % of its answers repeat training rows word for word.", "bad"),
    ],
    "loss_only": [Said("The loss on test rows fell from 2.810 to 2.610; no task was measured.", "note")],
    "nothing": [Said("Not distinguishable at n = 300: you may not need to fine-tune.", "unsure")],
}
CASES = {"sql": sql, "character": character, "loss_only": loss_only, "nothing": nothing}
