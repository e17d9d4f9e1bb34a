"""Sources -> train, valid and test rows, with a report in which every input is accounted for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith import files
from tunesmith.dataset.split import Part, part_of
from tunesmith.dataset.tokens import Sequence, encode
from tunesmith.errors import ModelError, SourceError
from tunesmith.models.chat import ChatFormat
from tunesmith.settings import DataSettings, SourceTable
from tunesmith.sources.example import Example, Message
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.read import read_source

PARTS: tuple[Part, ...] = ("train", "valid", "test")


@dataclass
class Dataset:
    """The rows of each part as the model will see them, and what could not be used."""

    rows: dict[Part, list[Example]] = field(default_factory=lambda: {part: [] for part in PARTS})
    sequences: dict[Part, list[Sequence]] = field(default_factory=lambda: {part: [] for part in PARTS})
    quarantine: list[Quarantined] = field(default_factory=list)
    cut: list[Sequence] = field(default_factory=list)
    inputs: int = 0


def build(data: DataSettings, chat: ChatFormat) -> Dataset:
    """Read, divide and tokenize everything that the settings name.

    Raises `SourceError` when a file cannot be read or nothing is left to train on.
    """
    dataset = Dataset()
    for part, item in _items(data):
        dataset.inputs += 1
        if isinstance(item, Quarantined):
            dataset.quarantine.append(item)
            continue
        example = _with_system(item, data.system)
        try:
            sequences = list(encode(example, chat, data.max_tokens))
        except ModelError as error:
            dataset.quarantine.append(
                Quarantined(example.origin, str(error), json.dumps(example.to_json(), ensure_ascii=False))
            )
            continue
        if not any(s.learned for s in sequences):
            longest = max(len(s.ids) + s.lost for s in sequences)
            reason = f"no room for the answer: {longest} tokens, the limit is {data.max_tokens}"
            dataset.quarantine.append(
                Quarantined(example.origin, reason, json.dumps(example.to_json(), ensure_ascii=False))
            )
            continue
        side = part or part_of(example, _share(data.split.valid), _share(data.split.test), data.seed)
        dataset.rows[side].append(example)
        dataset.sequences[side] += [s for s in sequences if s.learned]
        dataset.cut += [s for s in sequences if s.lost]
    if not dataset.sequences["train"]:
        raise SourceError(_nothing(dataset, data))
    return dataset


def _items(data: DataSettings) -> Iterator[tuple[Part | None, Example | Quarantined]]:
    """Every row with the part that the settings put it in, or None where the split decides."""
    for source in data.sources:
        for item in read_source(source, Path(data.folder)):
            yield None, item
    divided: tuple[tuple[Part, Any], ...] = (("valid", data.split.valid), ("test", data.split.test))
    for part, where in divided:
        for source in _files(where):
            for item in read_source(source, Path(data.folder)):
                yield part, item


def _files(where: float | tuple[SourceTable, ...]) -> tuple[SourceTable, ...]:
    return where if isinstance(where, tuple) else ()


def _share(where: float | tuple[SourceTable, ...]) -> float:
    return 0.0 if isinstance(where, tuple) else where


def source_files(data: DataSettings) -> list[Path]:
    """Every file that the settings name: what a prepared dataset depends on."""
    named = [*data.sources, *_files(data.split.valid), *_files(data.split.test)]
    return [Path(data.folder) / name for s in named for name in (s.path, s.tables) if name]


def _with_system(example: Example, system: str) -> Example:
    if not system or example.messages[0].role in ("system", "text"):
        return example
    return replace(example, messages=(Message("system", system), *example.messages))


def _nothing(dataset: Dataset, data: DataSettings) -> str:
    if dataset.quarantine:
        first = dataset.quarantine[0]
        return f"none of the {dataset.inputs} rows can be trained on; the first, {first.origin}: {first.reason}"
    if dataset.inputs:
        return f"all {dataset.inputs} rows fell to validation and test; add rows, or lower data.split"
    return f"{', '.join(s.path for s in data.sources)}: no rows in there"


def write(dataset: Dataset, folder: Path, data: DataSettings) -> dict[str, Any]:
    """Put train, valid, test, quarantine and report.json into ``folder``, all at once; return the report."""
    made = report(dataset, data)
    with files.atomic_folder(folder) as target:
        for part in PARTS:
            files.write_jsonl(target / f"{part}.jsonl", [row.to_json() for row in dataset.rows[part]])
        files.write_jsonl(
            target / "quarantine.jsonl",
            [
                {"file": q.origin.file, "line": q.origin.line, "reason": q.reason, "text": q.text}
                for q in dataset.quarantine
            ],
        )
        files.write_json(target / "report.json", made)
    return made


def read(folder: Path, part: Part) -> list[Example]:
    """The rows of one part as `write` left them."""
    return [Example.from_json(row) for row in files.read_jsonl(folder / f"{part}.jsonl")]


def sequences(rows: list[Example], chat: ChatFormat, max_tokens: int) -> list[Sequence]:
    """What of these rows is trained or measured on."""
    return [s for row in rows for s in encode(row, chat, max_tokens) if s.learned]


def report(dataset: Dataset, data: DataSettings) -> dict[str, Any]:
    """Counts, what was cut, and findings worth a person's look, as plain values."""
    every = [s for part in PARTS for s in dataset.sequences[part]]
    cut = [{"origin": str(s.example.origin), "tokens": len(s.ids) + s.lost, "lost": s.lost} for s in dataset.cut]
    return {
        "inputs": dataset.inputs,
        "rows": {part: len(dataset.rows[part]) for part in PARTS},
        "quarantined": len(dataset.quarantine),
        "cut": cut,
        "tokens": {
            "train": sum(len(s.ids) for s in dataset.sequences["train"]),
            "learned": sum(s.learned for s in dataset.sequences["train"]),
            "longest": max(len(s.ids) for s in every),
        },
        "findings": _findings(dataset, cut, data),
    }


def _findings(dataset: Dataset, cut: list[dict[str, Any]], data: DataSettings) -> list[dict[str, str]]:
    found = []
    for reason, n in Counter(q.reason for q in dataset.quarantine).most_common(5):
        first = next(q.origin for q in dataset.quarantine if q.reason == reason)
        found.append(("warning", f"{n} rows put aside, the first at {first}: {reason}"))
    if cut:
        lost = sum(row["lost"] for row in cut)
        found.append(("warning", f"{len(cut)} rows are longer than {data.max_tokens} tokens and lose {lost} of them"))
    uses: dict[Part, str] = {"valid": "choose the best checkpoint", "test": "measure the result"}
    for part, use in uses.items():
        if not dataset.rows[part]:
            found.append(("warning", f"no {part} rows: nothing to {use} with"))
    trained = {row.split_key for row in dataset.rows["train"]}
    for part in uses:
        if leaked := [row for row in dataset.rows[part] if row.split_key in trained]:
            found.append(("error", f"{len(leaked)} {part} rows are trained on too, the first at {leaked[0].origin}"))
    repeated = len(dataset.rows["train"]) - len({row.id for row in dataset.rows["train"]})
    if repeated:
        found.append(("note", f"{repeated} training rows repeat another one exactly"))
    return [{"severity": severity, "message": message} for severity, message in found]
