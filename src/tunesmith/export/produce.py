"""A trained run as files that run elsewhere, each GGUF with the proof that it is the trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith import __version__, files
from tunesmith.dataset import prepare
from tunesmith.engines.base import Engine
from tunesmith.errors import CheckFailed, ModelError, RunError
from tunesmith.evaluation.evaluate import open_task
from tunesmith.evaluation.statistics import interval
from tunesmith.export import lmstudio, ollama
from tunesmith.export.base_model import is_quantized
from tunesmith.export.formats import Formats
from tunesmith.export.gguf_lora import write_gguf_lora
from tunesmith.export.gguf_write import write_gguf
from tunesmith.export.llama_server import ask_server
from tunesmith.export.merge import write_merged
from tunesmith.export.mlx_adapter import write_mlx_adapter
from tunesmith.export.mlx_folder import write_mlx
from tunesmith.export.modelfile import generation_parameters, modelfile
from tunesmith.export.ollama_template import derive, stops
from tunesmith.export.proof import prove
from tunesmith.export.proof_limits import Limits
from tunesmith.export.weights import Weights
from tunesmith.models.chat import ChatFormat
from tunesmith.models.find import Model
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe, SqlTaskSettings
from tunesmith.sources.example import Example


@dataclass
class Exporting:
    """One export of one run. ``open_engine`` loads the trained model in float32; it is called when a proof
    needs it. What happens inside one file is told to ``notify``."""

    folder: RunFolder
    recipe: Recipe
    base: Model
    open_engine: Callable[[], Engine]
    notify: Callable[[Progress], None] = lambda _: None
    proofs: list[dict[str, Any]] = field(default_factory=list)

    def run(self, formats: Formats) -> Iterator[Progress]:
        """Write everything that is asked for, prove it, then hand it over.

        Raises `CheckFailed` when a file is not the trained model (the file and the proof stay, nothing is handed
        over), `RunError` for a run that was trained on another base, and what the writers raise.
        """
        self._check_base()
        if formats.ollama:  # before minutes of writing and proving
            ollama.check_name(formats.ollama)
            ollama.version()
        for kind in formats.ggufs:
            yield from self._gguf(kind)
        if formats.lora:
            write_gguf_lora(self.folder.adapter, self.base.folder, self._place("lora.gguf"), provenance=self._origin)
            yield self._made(self._place("lora.gguf"))
        if formats.merged:
            write_merged(self.weights, self.base.folder, self.folder.export / "merged", on_progress=self._on("merging"))
            yield self._made(self.folder.export / "merged")
        if formats.mlx:
            target = self.folder.export / "mlx-4bit"
            write_mlx(self.weights, self.base.folder, target, on_progress=self._on("quantizing for MLX"))
            yield self._made(self.folder.export / "mlx-4bit")
        if formats.mlx_lora:
            write_mlx_adapter(self.folder.adapter, self.base.folder, self.folder.export / "mlx-lora")
            yield self._made(self.folder.export / "mlx-lora")
        refuse_unproved(self.proofs)
        if formats.ggufs:
            yield from self._modelfile(self._place(f"{formats.ggufs[0]}.gguf"))
            yield from self._hand_over(self._place(f"{formats.ggufs[0]}.gguf"), formats)

    def prove(self, gguf: Path) -> Iterator[Progress]:
        """Compare one file with the trained model; the proof is added to ``proofs`` and kept in proof.json."""
        made = prove(
            gguf, self.base.folder, self.folder.adapter, self._rows, self.engine, self.chat, self._limits,
            self.derived, lambda what, share: self._on(f"proof of {gguf.name}: {what}")(share),
        ).to_json()  # fmt: skip
        made["gguf"], made["sha256"] = gguf.name, files.file_hash(gguf)
        made["base was quantized"] = is_quantized(self.recipe.model.name)
        if task := self._task(gguf):
            made["task"] = task
        self.proofs.append(made)
        self._keep(made)
        verdict = "holds" if made["holds"] else "does not hold"
        yield Progress("measured", stage="export", model=gguf.name, message=f"proof {verdict}")

    # -- what is written -------------------------------------------------------------------------

    def _gguf(self, kind: str) -> Iterator[Progress]:
        target = self._place(f"{kind}.gguf")
        report = self._on(f"writing {target.name}")
        write_gguf(self.weights, self.base.folder, target, kind, provenance=self._origin, on_progress=report)
        yield self._made(target)
        yield from self.prove(target)

    def _modelfile(self, gguf: Path) -> Iterator[Progress]:
        path = self.folder.export / "Modelfile"
        try:
            text = modelfile(gguf.name, self.derived, system=self._system, stops=stops(self.chat),
                             parameters=generation_parameters(self.base.folder))  # fmt: skip
        except ModelError as error:  # Ollama's API can hold what a Modelfile cannot
            yield Progress("note", stage="export", message=f"no Modelfile: {error}")
            return
        files.write_text(path, text)
        yield self._made(path)

    def _hand_over(self, gguf: Path, formats: Formats) -> Iterator[Progress]:
        if formats.lmstudio:
            yield self._made(lmstudio.install(gguf, "tunesmith", self.folder.path.resolve().name))
        if not formats.ollama:
            return
        ollama.create(
            formats.ollama, gguf, self.derived, system=self._system, stops=stops(self.chat),
            parameters=generation_parameters(self.base.folder),
            on_progress=lambda doing, done, total: self._on(f"Ollama: {doing}")(done / total if total else 0.0),
        )  # fmt: skip
        row = next((row for row in self._rows if row.answer), None)
        if row is not None:
            # The system message is the model's own there, as it is for the person who will ask it.
            asked = [turn for turn in row.asked if turn["content"] != self._system]
            room = {"temperature": 0, "num_predict": self.recipe.evaluate.max_new_tokens}
            said, question = ollama.ask(formats.ollama, asked, room).strip(), asked[-1]["content"]
            yield Progress("note", stage="export", message=f"{formats.ollama} answers {question!r}: {said!r}")

    # -- what it is made of ----------------------------------------------------------------------

    @cached_property
    def weights(self) -> Weights:
        """The merged model, read tensor by tensor."""
        return Weights(self.base.folder, self.folder.adapter)

    @cached_property
    def chat(self) -> ChatFormat:
        return ChatFormat(self.base.folder)

    @cached_property
    def derived(self) -> Any:
        """Ollama's TEMPLATE."""
        return derive(self.chat)

    @cached_property
    def engine(self) -> Engine:
        return self.open_engine()

    @cached_property
    def _rows(self) -> list[Example]:
        """Held-out rows: of test, else of what chose the checkpoint."""
        rows = list(prepare.read(self.folder.dataset, "test")) or list(prepare.read(self.folder.dataset, "valid"))
        if not rows:
            raise RunError(f"{self.folder} has no held-out rows to prove the export with; raise data.split.test")
        return rows

    @cached_property
    def _system(self) -> str:
        return prepare.shared_system(self.folder.dataset)

    @cached_property
    def _limits(self) -> Limits:
        proof, limits = self.recipe.export.proof, Limits()
        changed = {kind: replace(limits.of(kind), **values) for kind, values in proof.limits.items()}
        room = self.recipe.evaluate.max_new_tokens
        return replace(limits, tokens=proof.tokens, prompts=proof.prompts, max_new_tokens=min(room, 64), **changed)

    @cached_property
    def _origin(self) -> dict[str, str]:
        """Where the model comes from, for the file's metadata: hashes from the rows to the adapter."""
        manifest = self.folder.manifest()
        return {
            "general.name": self.folder.path.resolve().name,
            "tunesmith.version": __version__,
            "tunesmith.base": Path(self.base.name).name,
            "tunesmith.base.sha256": self.base.hash,
            "tunesmith.dataset": manifest.get("stages", {}).get("prepare", ""),
            "tunesmith.adapter.sha256": manifest.get("adapter", {}).get("sha256", ""),
        }

    def _place(self, name: str) -> Path:
        return self.folder.export / f"{self.folder.path.resolve().name}-{name}"

    def _check_base(self) -> None:
        trained = self.folder.manifest().get("model", {}).get("sha256")
        if trained and trained != self.base.hash:
            raise RunError(
                f"{self.folder} was trained on another model than {self.base.name} is now; "
                "give back the old one with --model.name, or train again with --fresh"
            )

    # -- the proof -------------------------------------------------------------------------------

    def _task(self, gguf: Path) -> dict[str, Any] | None:
        """The score of the recipe's task, answered by llama.cpp as a person's questions would be."""
        settings = next((t for t in self.recipe.evaluate.tasks if isinstance(t, SqlTaskSettings)), None)
        rows = [row for row in self._rows if row.answer][: self.recipe.export.proof.questions]
        if settings is None or not rows:
            return None
        task = open_task(settings, self.recipe.folder())
        prompts = [self.chat.prompt(row.asked, row.extra.get("tools")) for row in rows]
        answers = ask_server(gguf, [], prompts, self.recipe.evaluate.max_new_tokens).answers
        right = sum(
            task.grade(row, self.chat.decode(a.ids).strip()).right for row, a in zip(rows, answers, strict=True)
        )
        n = len(rows)
        return {"kind": settings.kind, "score": right / n, "n": n, "interval": interval(right, n)}

    def _keep(self, made: dict[str, Any]) -> None:
        path = self.folder.export / "proof.json"
        kept = files.read_json(path) if path.exists() else []
        others = [p for p in kept if p["gguf"] != made["gguf"] and (self.folder.export / p["gguf"]).exists()]
        files.write_json(path, [*others, made])

    def _on(self, what: str) -> Callable[[float], None]:
        """Tells how much of it is done."""
        return lambda share: self.notify(
            Progress("working", stage="export", message=what, done=round(100 * share), total=100)
        )

    def _made(self, path: Path) -> Progress:
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
        return Progress("measured", stage="export", model=str(path), message=f"{size / 1e6:,.1f} MB")


def refuse_unproved(proofs: list[dict[str, Any]]) -> None:
    """Raises `CheckFailed` with the cause when one of the files is not the trained model."""
    for proof in proofs:
        if not proof["holds"]:
            causes = "; ".join(cause["sentence"] for cause in proof["causes"]) or "see proof.json"
            raise CheckFailed(f"{proof['gguf']} is not the model that was trained: {causes}")
