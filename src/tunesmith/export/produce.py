"""A trained run as files that run elsewhere, each GGUF with the proof that it is the trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tunesmith import __version__, files, machine
from tunesmith.dataset import prepare
from tunesmith.engines.base import Engine
from tunesmith.errors import ModelError, RunError
from tunesmith.evaluation.statistics import interval
from tunesmith.evaluation.tasks.open import files_of, open_sql
from tunesmith.evaluation.tasks.sql import SqlTask
from tunesmith.export import lmstudio, ollama
from tunesmith.export.base_model import is_quantized
from tunesmith.export.formats import EXPORTING, Formats
from tunesmith.export.gguf_lora import write_gguf_lora
from tunesmith.export.gguf_write import write_gguf
from tunesmith.export.llama_server import ask_server
from tunesmith.export.merge import write_merged
from tunesmith.export.mlx_adapter import write_mlx_adapter
from tunesmith.export.mlx_folder import write_mlx
from tunesmith.export.modelfile import generation_parameters, modelfile
from tunesmith.export.ollama_template import derive, stops
from tunesmith.export.proof import prove
from tunesmith.export.proof_file import keep_proof, proof_path, read_proofs, refuse_unproved
from tunesmith.export.proof_limits import Limits, Others, finer
from tunesmith.export.weights import Weights
from tunesmith.models.chat import ChatFormat
from tunesmith.models.find import Model
from tunesmith.models.gguf_file import read_gguf
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.settings import Recipe, SqlTaskSettings
from tunesmith.sources.example import Example
from tunesmith.training.checkpoints import CONFIG as ADAPTER_CONFIG
from tunesmith.training.checkpoints import WEIGHTS as ADAPTER_WEIGHTS


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
        self._check_before(formats)
        for kind in sorted(formats.ggufs, key=lambda kind: len(finer(kind))):  # a coarse one is told what held
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

    def is_there(self, formats: Formats) -> bool:
        """Whether all of it was written before, and every GGUF is the file that was proved."""
        folders = {"merged": formats.merged, "mlx-4bit": formats.mlx, "mlx-lora": formats.mlx_lora}
        places = [self.folder.export / name for name, wanted in folders.items() if wanted]
        places += [self._place("lora.gguf")] if formats.lora else []
        ggufs = [self._place(f"{kind}.gguf") for kind in formats.ggufs]
        return all(place.exists() for place in places) and all(self._known(gguf) for gguf in ggufs)

    def prove(self, gguf: Path) -> Iterator[Progress]:
        """Compare one file with the trained model; the proof is added to ``proofs`` and kept in proof.json.

        Raises what `run` does, `CheckFailed` aside.
        """
        task = self._provable()
        read_gguf(gguf)  # a file that is none is said before the trained model is loaded
        doing = f"proof of {gguf.name}"
        made = prove(
            gguf, self.base.folder, self.folder.adapter, self._rows, self.engine, self.chat, self._limits,
            self.derived, self._others(gguf), lambda what, share: self._on(f"{doing}: {what}")(share),
        ).to_json()  # fmt: skip
        made["gguf"], made["sha256"], made["inputs"] = gguf.name, files.file_hash(gguf), self._inputs
        made["base was quantized"] = is_quantized(self.recipe.model.name)
        if task:
            made["task"] = self._answered(gguf, task, self._on(f"{doing}: test questions"))
        self.proofs.append(made)
        keep_proof(self.folder, made)
        yield Progress("measured", stage="export", model=gguf.name, message=f"proof {_verdict(made)}")

    # -- what is written -------------------------------------------------------------------------

    def _gguf(self, kind: str) -> Iterator[Progress]:
        target = self._place(f"{kind}.gguf")
        if known := self._known(target):
            self.proofs.append(known)
            said = f"proof from {proof_path(self.folder)}, unchanged: {_verdict(known)}"
            yield Progress("measured", stage="export", model=target.name, message=said)
            return
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
        self._on("loading the trained model")(0.0)
        return self.open_engine()

    @cached_property
    def _rows(self) -> list[Example]:
        """Held-out rows: of test, else of what chose the checkpoint."""
        try:
            return list(prepare.read(self.folder.dataset, "test")) or list(prepare.read(self.folder.dataset, "valid"))
        except FileNotFoundError:
            raise RunError(
                f"{self.folder} has no dataset any more; `tunesmith prepare {self.folder} --fresh`, then "
                f"`tunesmith run {self.folder}` make it again"
            ) from None

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

    # -- what is looked at first -----------------------------------------------------------------

    def _check_before(self, formats: Formats) -> None:
        """What would end the export anyway is said before minutes of writing and proving."""
        self._provable() if formats.ggufs else self._check_base()
        if formats.lmstudio:
            lmstudio.models_folder()
        if formats.ollama:
            ollama.check_ready(formats.ollama)

    def _provable(self) -> SqlTask | None:
        """The task by which a file's answers are graded, where there is one. Raises `RunError` for another base, or
        when there are no rows, and `SourceError` when the task cannot be opened."""
        self._check_base()
        if not self._rows:
            raise RunError(f"{self.folder} has no held-out rows to prove the export with; raise data.split.test")
        return open_sql(self._settings, self.recipe.folder()) if self._settings and self._questions else None

    def _check_base(self) -> None:
        trained = self.folder.manifest().get("model", {}).get("sha256")
        if trained and trained != self.base.hash:
            raise RunError(
                f"{self.folder} was trained on another model than {self.base.name} is now; "
                "put the old one back, or train again with `tunesmith run --fresh`"
            )
        self.weights.names()  # an adapter of another base is refused here

    # -- the proof -------------------------------------------------------------------------------

    @cached_property
    def _inputs(self) -> str:
        """Hash of everything but the file that decides a proof."""
        evaluate, proof = self.recipe.evaluate, self.recipe.export.proof
        read = [self.folder.adapter / name for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG)]
        read += [self.folder.dataset / f"{part}.jsonl" for part in ("test", "valid")]
        if self._settings:
            read += files_of(self._settings, self.recipe.folder())
        asked = [self.recipe.model.engine, evaluate.max_new_tokens, proof.questions, asdict(self._limits)]
        return files.value_hash([EXPORTING, self.base.hash, asked, [files.file_hash(p) for p in read if p.exists()]])

    def _known(self, gguf: Path) -> dict[str, Any] | None:
        """The proof of this very file, when nothing has changed that decides it."""
        known = next((p for p in read_proofs(self.folder) if p["gguf"] == gguf.name), None)
        if known is None or known.get("inputs") != self._inputs or not gguf.exists():
            return None
        self._on(f"reading {gguf.name}")(0.0)
        return known if files.file_hash(gguf) == known["sha256"] else None

    def _others(self, gguf: Path) -> Others:
        """What is known of the run's other files."""
        proofs = [p for p in read_proofs(self.folder) if p.get("inputs") == self._inputs and p["gguf"] != gguf.name]
        there = [p for p in proofs if (self.folder.export / p["gguf"]).exists()]
        return Others([p["kind"] for p in there if p["holds"]], [p["kind"] for p in there if not p["holds"]])

    @property
    def _settings(self) -> SqlTaskSettings | None:
        return next((t for t in self.recipe.evaluate.tasks if isinstance(t, SqlTaskSettings)), None)

    @property
    def _questions(self) -> list[Example]:
        """What the file answers in llama.cpp, where the recipe has a task to grade it by."""
        rows = [row for row in self._rows if row.answer] if self._settings else []
        return rows[: self.recipe.export.proof.questions]

    def _answered(self, gguf: Path, task: SqlTask, on_progress: Callable[[float], None]) -> dict[str, Any]:
        """The score of the recipe's task, answered by llama.cpp as a person's questions would be."""
        asked, room = task.questions(self._questions), self.recipe.evaluate.max_new_tokens
        prompts = [self.chat.prompt(question.messages, question.tools) for question in asked]
        answers = ask_server(gguf, [], prompts, room, on_progress).answers
        texts = [self.chat.decode(answer.ids).strip() for answer in answers]
        right, n = sum(task.grade(*pair).right for pair in zip(asked, texts, strict=True)), len(asked)
        return {"kind": task.name, "score": right / n, "n": n, "interval": interval(right, n)}

    def _on(self, what: str) -> Callable[[float], None]:
        """Tells how much of it is done."""
        return lambda share: self.notify(
            Progress("working", stage="export", message=what, done=round(100 * share), total=100)
        )

    def _made(self, path: Path) -> Progress:
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
        return Progress("measured", stage="export", model=str(path), message=machine.size(size))


def _verdict(proof: dict[str, Any]) -> str:
    return "holds" if proof["holds"] else "does not hold"
