"""The model card: what the model was made from and how, what was measured, how to run it, whose licences hold.

It is read by strangers: no path, no name of a person or a machine, and nothing that was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from tunesmith.errors import RunError
from tunesmith.evaluation.verdict import verdict
from tunesmith.export.base_model import base_id, is_quantized, licence_of, shown_name
from tunesmith.export.usage import how_to_run
from tunesmith.files import file_hash, read_json
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe

NOT_MEASURED = "not measured"
BENEATH = (
    "In brackets the 95 % interval and the number of questions. Better and worse are said where a paired test tells",
    "them from chance, 5 in 100; answers about one document count together.",
)
"""What the scores and the sentences beneath them mean."""


@dataclass(frozen=True)
class Teacher:
    """The model that wrote rows, and the terms under which it did."""

    name: str
    licence: str = ""


def model_card(
    run: RunFolder,
    files: Sequence[Path],
    base_name: str,
    *,
    to: str = "",
    base_folder: Path | None = None,
    language: Sequence[str] = (),
    teacher: Teacher | None = None,
) -> str:
    """README.md for ``files``, which are published or lie in an export's folder.

    ``base_name`` is the recipe's model.name, ``to`` where it will be ("hf:OWNER/NAME"), ``base_folder`` the
    base model's folder, whose card may tell its licence. Raises `RunError` when a file of the run is damaged.
    """
    recipe, manifest = run.recipe(), run.manifest()
    names = sorted(path.name for path in files)
    kind = _kind(files)
    base = base_id(base_name) or shown_name(base_name)
    licence = licence_of(base_name, base_folder)
    repo = to.partition(":")[2]
    place = repo if to.startswith("hf:") else "PATH/TO/THIS/FOLDER"
    sections = [
        _front_matter(kind, base_name, licence, language),
        f"# {repo.rpartition('/')[2] or f'{base}, tuned'}",
        _opening(kind, base, base_name),
        _scores(_read(run.evaluation / "results.json") or [], kind),
        _proof(_read(run.path / "export" / "proof.json"), files),
        _data(_read(run.dataset / "report.json"), recipe, teacher),
        _settings(recipe),
        how_to_run(kind, names, base, place),
        _licences(base, licence, teacher),
        _provenance(manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        raise RunError(f"{path} is damaged; make it again with the stage that wrote it") from None


def _kind(files: Sequence[Path]) -> str:
    """ "gguf", "adapter", "mlx" or "merged": by what lies there."""
    names = {path.name for path in files}
    if any(name.endswith(".gguf") for name in names):
        return "gguf"
    if "adapter_config.json" in names:
        return "adapter"
    config = next((path for path in files if path.name == "config.json" and path.is_file()), None)
    return "mlx" if config and "quantization" in _read(config) else "merged"


def _front_matter(kind: str, base_name: str, licence: dict[str, str], language: Sequence[str]) -> str:
    from huggingface_hub import ModelCardData

    relation = {"base_model_relation": "adapter" if kind == "adapter" else "finetune"}
    more: dict[str, Any] = {**licence, **(relation if base_id(base_name) else {})}
    data = ModelCardData(
        base_model=base_id(base_name),
        language=list(language) or None,
        library_name={"adapter": "peft", "mlx": "mlx", "merged": "transformers"}.get(kind),
        pipeline_tag="text-generation",
        tags=["tunesmith", "lora", *(["gguf"] if kind == "gguf" else [])],
        **more,
    )
    return f"---\n{data.to_yaml().strip()}\n---"


def _opening(kind: str, base: str, base_name: str) -> str:
    what = {
        "adapter": f"A LoRA adapter for {base}",
        "gguf": f"GGUF files of {base} with a LoRA adapter merged in",
        "mlx": f"{base} with a LoRA adapter merged in, quantized for MLX",
        "merged": f"{base} with a LoRA adapter merged in",
    }[kind]
    text = f"{what}, trained with tunesmith on rows of its maker's own, which are not part of this repository."
    if is_quantized(base_name):
        text += (
            "\nThe base was a quantized GGUF, whose weights were de-quantized for training; with the 16-bit weights "
            "of the same model the answers will differ a little."
        )
    return text


# -- what was measured -----------------------------------------------------------------------------


def _scores(results: list[dict[str, Any]], kind: str) -> str:
    by_name = {result.get("model"): result for result in results}
    base, tuned = by_name.get("base", {}), by_name.get("tuned", {})
    tasks = list(dict.fromkeys([*base.get("tasks", {}), *tuned.get("tasks", {})]))
    lines = [
        "## Scores", "",
        "On rows that neither training nor the choice of the checkpoint has seen, base beside tuned:", "",
        f"| model | loss | perplexity |{''.join(f' {task} |' for task in tasks)}",
        f"|---|---|---|{'---|' * len(tasks)}",
    ]  # fmt: skip
    for name, result in (("base", base), ("tuned", tuned)):
        cells = [_number(result.get("loss"), ".3f"), _number(result.get("perplexity"), ".2f")]
        cells += [_score(result.get("tasks", {}).get(task)) for task in tasks]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if tasks:
        lines += ["", *BENEATH]
    said = [sentence.text for sentence in verdict(results) if sentence.about != "checkpoints"]
    lines += ["", *(f"- {text}" for text in said)] if said else []
    if kind in ("gguf", "mlx"):
        lines += ["", "Measured with the adapter on the base as it was trained, not with the files here."]
    return "\n".join(lines)


def _number(value: float | None, spec: str) -> str:
    return NOT_MEASURED if value is None else f"{value:,{spec}}"


def _score(task: dict[str, Any] | None) -> str:
    if task is None or task.get("score") is None:
        return NOT_MEASURED
    low, high = task.get("interval") or (None, None)
    interval = f"{100 * low:.1f}–{100 * high:.1f} %" if low is not None and high is not None else "no interval"
    return f"{100 * task['score']:.1f} % ({interval}, n = {task.get('n', 0):,})"


def _proof(proof: Any, files: Sequence[Path]) -> str:
    """The verdict on each published GGUF: whether llama.cpp runs in it what was trained."""
    ggufs = sorted((path for path in files if path.suffix == ".gguf"), key=lambda path: path.name)
    if not ggufs:
        return ""
    listed = proof if isinstance(proof, list) else [proof] if isinstance(proof, dict) else []
    by_file = {PureWindowsPath(str(entry.get("gguf", ""))).name: entry for entry in listed if isinstance(entry, dict)}
    lines = ["## Proof", "", "Whether each file, run by llama.cpp, is the model that was trained (same tokens asked,",
             "same numbers answered within limits, same ends):", "", "| file | verdict |", "|---|---|"]  # fmt: skip
    for path in ggufs:
        lines.append(f"| {path.name} | {_verdict(by_file.get(path.name), path)} |")
    return "\n".join(lines)


def _verdict(entry: dict[str, Any] | None, path: Path) -> str:
    """A proof is of one content: a file of the same name is another file."""
    if entry is None or (path.is_file() and entry.get("sha256") != file_hash(path)):
        return "not proved"
    if entry.get("holds"):
        return "holds"
    failed = [str(check.get("name")) for check in entry.get("checks", []) if not check.get("holds")]
    return f"**does not hold**: {', '.join(failed) or 'see proof.json'}"


# -- how it was made -------------------------------------------------------------------------------


def _teacher(teacher: Teacher) -> str:
    return base_id(teacher.name) or shown_name(teacher.name)


def _data(report: dict[str, Any] | None, recipe: Recipe, teacher: Teacher | None) -> str:
    lines = ["## Data", ""]
    if report is None:
        return "\n".join([*lines, "Not recorded."])
    rows, tokens = report.get("rows", {}), report.get("tokens", {})
    counts = {
        "rows read": report.get("inputs"), "rows to train": rows.get("train"), "rows to validate": rows.get("valid"),
        "rows to test": rows.get("test"), "quarantined": report.get("quarantined"),
        "merged as exact repeats": report.get("merged"), "removed": report.get("removed"),
        "cut for length": report.get("cut", {}).get("rows"),
        "training tokens": tokens.get("train"), "of them learned": tokens.get("learned"),
    }  # fmt: skip
    lines += ["| what | count |", "|---|---|"]
    lines += [f"| {what} | {count:,} |" for what, count in counts.items() if count is not None]
    if recipe.data.system:
        lines += ["", "Rows without a system message of their own were trained with a fixed one."]
    if teacher:
        lines += ["", f"Rows were written by {_teacher(teacher)}, another model."]
    return "\n".join(lines)


def _settings(recipe: Recipe) -> str:
    train, lora = recipe.train, recipe.train.lora
    values = {
        "LoRA rank, alpha, dropout": f"{lora.rank}, {lora.alpha:g}, {lora.dropout:g}",
        "modules": ", ".join(lora.modules), "layers": train.layers,
        "learning rate": f"{train.learning_rate:g}, {train.schedule}, warm-up {train.warmup:g}",
        "batch": train.batch, "length": _length(recipe),
        "weight decay, clipping": f"{train.weight_decay:g}, {train.clip:g}",
        "longest row": f"{recipe.data.max_tokens:,} tokens", "seeds": f"{recipe.data.seed} (data), {train.seed}",
    }  # fmt: skip
    return "\n".join(["## Settings", "", "| setting | value |", "|---|---|",
                      *(f"| {name} | {value} |" for name, value in values.items())])  # fmt: skip


def _length(recipe: Recipe) -> str:
    steps, epochs = recipe.train.steps, recipe.train.epochs
    return f"{epochs} epoch{'s' if epochs > 1 else ''}" if steps is None else f"{steps:,} steps"


def _licences(base: str, licence: dict[str, str], teacher: Teacher | None) -> str:
    """What holds of others' terms. Nothing is granted here that the base does not grant."""
    terms = licence.get("license_name") or licence.get("license")
    lines = ["## Licence", ""]
    if terms:
        link = f" ({licence['license_link']})" if "license_link" in licence else ""
        lines.append(f"The base model {base} is under {terms}{link}; those terms hold for what was made from it.")
    else:
        lines.append(f"The licence of the base model {base} is not known here; look it up before you pass this on.")
    if teacher:
        under = f"under {teacher.licence}" if teacher.licence else "whose terms are not known here"
        lines += ["", f"Rows were written by {_teacher(teacher)}, {under}; its maker's terms may bind models "
                      "that are trained on its answers."]  # fmt: skip
    return "\n".join(lines)


def _provenance(manifest: dict[str, Any]) -> str:
    """Hashes, by which anybody who has the files can tell that they are these."""
    versions = manifest.get("versions", {})
    facts = {
        "base model, sha256": manifest.get("model", {}).get("sha256"),
        "adapter, sha256": (manifest.get("adapter") or {}).get("sha256"),
        "made with": ", ".join(f"{name} {version}" for name, version in versions.items()) or None,
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value]
    return "\n".join(["## Provenance", "", *lines]) if lines else ""
