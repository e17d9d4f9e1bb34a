"""`tunesmith export`, `prove` and `publish`: what leaves this machine's run folder, and how it is shown."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from tunesmith.cli.console import print_json
from tunesmith.cli.edge import stopping
from tunesmith.cli.proof_table import proof_table
from tunesmith.cli.view import View
from tunesmith.cli.work import drive, kept_for_json, print_next, quoted
from tunesmith.errors import CheckFailed, RecipeError
from tunesmith.export.formats import USUAL


def export(recipe: Path, name: str | None, to: str, quant: str | None, *, as_json: bool) -> None:
    """`tunesmith export`. Raises `CheckFailed` when a file is not the trained model."""
    if (name is None) == (to == "ollama"):
        raise RecipeError(
            "say how the model is called in Ollama: --to ollama NAME" if name is None
            else f"a name goes with --to ollama; --to {to} takes none"
        )  # fmt: skip
    if quant and to not in ("gguf", "ollama", "lmstudio"):
        raise RecipeError(f"--quant is a kind of GGUF; --to {to} takes none")
    quant = quant or USUAL
    formats = {
        "gguf": [f"gguf:{quant}"],
        "ollama": [f"gguf:{quant}", f"ollama:{name}"],
        "lmstudio": [f"gguf:{quant}", "lmstudio"],
    }.get(to, [to])
    with kept_for_json(as_json) as console:
        from tunesmith import stages as rooms

        folder, resolved = rooms.open_run(recipe, None, {"export.formats": formats})
        failed = None
        try:
            drive(folder, resolved, console, stages=("export",), fresh=False)
        except CheckFailed as error:
            failed = error  # raised behind the table that shows it
        written = f"{folder.path.resolve().name}-{quant}.gguf" if f"gguf:{quant}" in formats else None
        proofs = [proof for proof in rooms.proofs(folder) if proof["gguf"] == written]
        if proofs and not as_json:
            console.print(proof_table(proofs))
        if not as_json and not failed:
            what = f" --what {'gguf' if written else to}" if written or to in ("merged", "mlx") else ""
            hints = {f"tunesmith publish {quoted(folder)} --to hf:OWNER/NAME{what}": "send it to a hub"}
            talk = {f"tunesmith chat {quoted(folder.export / written)}": "talk to the file"} if written else {}
            talk = {f"ollama run {name}": "talk to it in Ollama"} | talk if to == "ollama" else talk
            print_next(console, talk | hints)
    if as_json:
        print_json({"run": str(folder), "formats": formats, "folder": str(folder.export), "proofs": proofs})
    if failed:
        raise failed


def prove(run: Path, ggufs: list[Path], *, as_json: bool) -> None:
    """`tunesmith prove`. Raises `CheckFailed` when a file is not the trained model."""
    with kept_for_json(as_json) as console:
        from tunesmith import stages as rooms
        from tunesmith.export.proof_file import refuse_unproved
        from tunesmith.run import RunFolder

        folder = RunFolder(run)
        with stopping("proofs that were finished stay; the same command begins again"), View(console) as view:
            for progress in rooms.prove(folder, ggufs, view.show):
                view.show(progress)
        names = {gguf.name for gguf in ggufs}
        proofs = [p for p in rooms.proofs(folder) if not names or p["gguf"] in names]
        if not as_json:
            console.print(proof_table(proofs))
    if as_json:
        print_json({"run": str(folder), "proofs": proofs})
    refuse_unproved(proofs)


def publish(run: Path, to: str, what: str, *, public: bool, as_json: bool) -> None:
    """`tunesmith publish`."""
    with kept_for_json(as_json) as console:
        from tunesmith.export.card import model_card
        from tunesmith.export.publish import publish as send
        from tunesmith.models.find import find
        from tunesmith.progress import Progress
        from tunesmith.run import RunFolder

        folder = RunFolder(run)
        recipe = folder.recipe()
        files = _published(folder.adapter, folder.export, what)
        card = model_card(folder, files, recipe.model.name, to=to, base_folder=find(recipe.model.name).folder)
        with stopping("what was sent stays there; the same command sends the rest"), View(console) as view:
            url = send(
                files, to, card=card, private=not public,
                on_progress=lambda done, total: view.show(
                    Progress("working", stage="publish", message=f"sending to {to}", done=done, total=total)
                ),
            )  # fmt: skip
        if not as_json:
            who = "everybody" if public else "you alone"
            console.print(Text.assemble(("✓ ", "bold green"), f"{url}, for {who} to see"))
    if as_json:
        print_json({"url": url, "private": not public, "files": [path.name for path in files]})


def _published(adapter: Path, export: Path, what: str) -> list[Path]:
    if what == "gguf":  # the adapter's is no model that Ollama or llama.cpp could run by itself
        ggufs = [path for path in sorted(export.glob("*.gguf")) if not path.name.endswith("-lora.gguf")]
        return ggufs + [path for path in [export / "Modelfile"] if path.exists()]
    folder = {"adapter": adapter, "merged": export / "merged", "mlx": export / "mlx-4bit"}[what]
    return sorted(path for path in folder.glob("*") if path.is_file())
