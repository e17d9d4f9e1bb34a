"""A base or tuned model that answers people: chat, and base against tuned side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tunesmith.dataset import prepare
from tunesmith.engines.base import Engine
from tunesmith.engines.choose import Precision, open_engine
from tunesmith.engines.room import room_for
from tunesmith.errors import OutOfMemory, RunError
from tunesmith.models.architecture import read_architecture
from tunesmith.models.chat import ChatFormat, read_config, template_of
from tunesmith.models.find import find
from tunesmith.progress import Progress
from tunesmith.run import RunFolder
from tunesmith.serving.calls import OPEN
from tunesmith.serving.text import Decoding
from tunesmith.settings import ModelSettings
from tunesmith.sources.example import Example
from tunesmith.training.checkpoints import read_adapter, shape_of

TURN = 1024
"""Tokens of a question and its answer: what must fit beside the weights before a model is opened to chat."""
ROWS_LOOKED_AT = 1000
"""Whether a run was taught to call tools is seen in its first rows."""


@dataclass(frozen=True)
class Comparison:
    """One question, answered by both; ``reference`` is the answer the data gives, where it has one."""

    question: str
    base: str
    tuned: str
    reference: str | None


class Answerer:
    """A loaded model with its chat format, with or without an adapter on it."""

    def __init__(self, name: str, engine: Engine, chat: ChatFormat, *, system: str = "", adapter: bool = False,
                 calls: bool = False, max_new_tokens: int = 512) -> None:  # fmt: skip
        self.name, self.engine, self.chat = name, engine, chat
        self.calls = calls
        """Whether it was taught to call tools as <tool_call>."""
        self.system, self.adapter, self.max_new_tokens = system, adapter, max_new_tokens

    def answer(self, messages: Sequence[dict[str, Any]], on_text: Callable[[str], None] = lambda _: None,
               *, adapter: bool | None = None, temperature: float = 0.0, seed: int = 0) -> str:  # fmt: skip
        """The model's answer to a conversation; ``on_text`` gets it piece by piece as it is written."""
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        decoding = Decoding(self.chat.decode)
        use = self.adapter if adapter is None else adapter
        [written] = self.engine.generate(
            [self.chat.prompt(messages)],
            max_new_tokens=self.max_new_tokens,
            stop=self.chat.stop,
            temperature=temperature,
            seed=seed,
            adapter=use,
            on_token=lambda _, token: on_text(decoding.add(token)),
        )
        on_text(decoding.rest())
        return self.chat.decode(written.ids).strip()


def open_chat(name: str, *, tokens: int = TURN) -> Answerer:
    """The tuned model of a run folder, or a bare model by name, to write texts of so many ``tokens``, the prompt
    included. Raises `ModelError` or `RunError`, and `OutOfMemory` before any weights are read.

    A file that a run exported is asked as the run was taught, with the system message that its rows had.
    """
    folder = RunFolder(Path(name))
    if folder.exists:
        return _open_run(folder, tokens)
    answerer = _open_model(name, ModelSettings(name=name), tokens)
    run = RunFolder(Path(name).absolute().parent.parent)
    if Path(name).absolute().parent == run.export and (run.dataset / "train.jsonl").exists():
        answerer.system = prepare.shared_system(run.dataset)
    return answerer


def _open_model(label: str, settings: ModelSettings, tokens: int) -> Answerer:
    model = find(settings.name)
    engine = _load(model.folder, settings.engine, settings.precision, tokens)
    template = template_of(model.folder, read_config(model.folder / "tokenizer_config.json")) or ""
    return Answerer(label, engine, ChatFormat(model.folder), calls=OPEN in template)


def _load(folder: Path, engine: Literal["auto", "torch", "mlx"], precision: Precision, tokens: int) -> Engine:
    arch = read_architecture(folder)
    if lacking := room_for(arch, engine, precision, min(tokens, arch.context)).lacking:
        raise OutOfMemory(f"{lacking}; close other programs, serve a GGUF of it, which takes less, or choose a smaller "
                          f"model")  # fmt: skip
    return open_engine(folder, arch, engine, precision)


def _open_run(folder: RunFolder, tokens: int = TURN) -> Answerer:
    recipe = folder.recipe()
    arrays, config = read_adapter(folder.adapter)
    answerer = _open_model(folder.path.resolve().name, recipe.model, tokens)
    answerer.engine.add_adapter(shape_of(config), seed=0)
    answerer.engine.load_adapter_arrays(arrays)
    answerer.adapter, answerer.system = True, prepare.shared_system(folder.dataset)
    answerer.calls |= any(row.extra.get("tools") for row in islice(_rows(folder, "train"), ROWS_LOOKED_AT))
    return answerer


def _rows(folder: RunFolder, part: Literal["train", "test"]) -> list[Example]:
    try:
        return list(prepare.read(folder.dataset, part))
    except FileNotFoundError:
        raise RunError(f"{folder} has no dataset; run it again with `tunesmith run`") from None


def compare(
    folder: RunFolder, questions: list[str], count: int = 3, *, notify: Callable[[Progress], None] = lambda _: None
) -> Iterator[Comparison]:
    """Answers of base and tuned to these questions, or to the first ``count`` test rows; ``notify`` is told of every
    token, as each answer takes seconds and loading the model takes more."""
    asked: list[tuple[list[dict[str, str]], str | None]] = [([{"role": "user", "content": q}], None) for q in questions]
    if not asked:
        rows = [row for row in _rows(folder, "test") if row.answer][:count]
        if not rows:
            raise RunError(f"{folder} has no test questions; give one of your own")
        asked = [(row.asked, row.answer) for row in rows]
    notify(Progress("working", stage="compare", message="loading the model"))
    answerer = _open_run(folder)
    answerer.max_new_tokens = folder.recipe().evaluate.max_new_tokens
    for number, (messages, reference) in enumerate(asked, start=1):
        said = f"question {number} of {len(asked)}: "

        def answered(adapter: bool, messages: list[dict[str, str]] = messages, said: str = said) -> str:
            told = Progress("working", stage="compare", message=said + ("tuned" if adapter else "base"))
            return answerer.answer(messages, lambda _: notify(told), adapter=adapter)

        yield Comparison(messages[-1]["content"], answered(False), answered(True), reference)
