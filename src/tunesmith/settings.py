"""What a person may set: one frozen object behind the recipe file, the flags and Python.

Each field stands with its default, its help beneath it. Nothing else in the package holds a default.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from tunesmith.errors import RecipeError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str | Path) else value


def _as_sources(value: Any) -> Any:
    """One source needs no brackets."""
    return (value,) if isinstance(value, str | Path | Mapping) else value


Column = Literal["question", "context", "answer", "system", "text", "messages", "chosen", "rejected", "label"]


class SourceTable(Section):
    path: str
    """A file or a folder, relative to data.folder; "dataset_info.json#NAME" for a data set of LLaMA-Factory's
    registry; "hf:OWNER/NAME" or "modelscope:OWNER/NAME" for one of a hub."""
    kind: Literal["auto", "rows", "documents", "blog-index", "wikisql", "taught"] = "auto"
    """What is there: "rows" of questions and answers, "documents" of prose, a "blog-index" (a Markdown list of links to
    articles), "wikisql" (WikiSQL's own format), "taught" (a teacher's rows.jsonl); "auto" goes by the file."""
    columns: dict[Column, str] = {}
    """Which column or key holds what, where it is not recognised: {question = "Frage", answer = "Antwort"}."""
    table: str | None = None
    """The sheet of a workbook, the table of an SQLite file; empty: all sheets, or the only table."""
    query: str | None = None
    """For an SQLite file: the SELECT whose rows are read, instead of a table."""
    marker: str | None = None
    """For a blog index: the line behind which the list begins; empty: the top."""
    filter: str | None = None
    """For a blog index: only the articles whose line holds this word, whatever its case."""
    tables: str | None = None
    """For "wikisql": the file with the tables."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Read only that many rows or documents from the top."""


Source = Annotated[SourceTable, BeforeValidator(_as_source)]
Sources = Annotated[tuple[Source, ...], BeforeValidator(_as_sources)]
Part = Annotated[Annotated[float, Field(ge=0, lt=1)] | Sources, Field(union_mode="left_to_right")]


class ModelSettings(Section):
    name: str = "starter"
    """The base model: "starter", a folder in Hugging Face's layout, a .gguf file, "hf:OWNER/NAME" or
    "modelscope:OWNER/NAME"."""
    engine: Literal["auto", "torch", "mlx"] = "auto"
    """What computes: "auto" takes mlx on Apple silicon, torch elsewhere."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Type of the base weights; "auto" takes the one this machine multiplies fastest."""


class SplitSettings(Section):
    valid: Part = 0.1
    """Share of the rows kept out to choose the best checkpoint, or files of their own."""
    test: Part = 0.1
    """Share of the rows kept out to measure the result, or files of their own."""

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitSettings:
        if sum(share for share in (self.valid, self.test) if isinstance(share, float)) >= 1:
            raise PydanticCustomError("split", "valid and test together leave no rows to train on")
        return self


class CleanSettings(Section):
    duplicates: Literal["drop", "keep"] = "drop"
    """Rows that repeat another one exactly: only the first is kept."""
    near_duplicates: Literal["report", "drop", "ignore"] = "report"
    """Rows that are almost another one; "report" only lists them, "ignore" does not look for them."""
    similarity: Annotated[float, Field(gt=0.5, le=1)] = 0.85
    """How alike two rows must be (Jaccard, of pieces of five characters) to be near-duplicates."""
    conflicts: Literal["keep", "first", "drop"] = "keep"
    """One question with different answers: keep all of them, only the first, or none."""
    boilerplate: Literal["remove", "keep"] = "remove"
    """Lines that many documents begin or end with, such as footers and badges."""
    redact: tuple[Literal["email", "phone", "secret"], ...] = ()
    """Replace these by a placeholder, in questions and answers; all of them are reported in any case."""


class DataSettings(Section):
    sources: Sources = ()
    """Files, folders, or tables such as {path = "dev.jsonl", kind = "wikisql", tables = "dev.tables.jsonl"}."""
    folder: str = ""
    """Where relative paths start; empty: the recipe's own folder."""
    split: SplitSettings = SplitSettings()
    """How rows are divided; the same row always falls on the same side."""
    system: str = ""
    """A system message for rows that have none."""
    ask: str = "{title}"
    """How a document's part is asked for; {title} is its title and the headings it stands under."""
    clean: CleanSettings = CleanSettings()
    """What is taken out before training."""
    max_tokens: Annotated[int, Field(ge=8)] = 2048
    """Documents are divided to fit; longer rows are cut, and listed in dataset/report.json."""
    seed: int = 0
    """Draws another division into train, valid and test."""


class PriceSettings(Section):
    input: Annotated[float, Field(ge=0)] = 0.0
    """What a million tokens of questions cost, in your currency."""
    output: Annotated[float, Field(ge=0)] = 0.0
    """What a million tokens of answers cost."""


class TeacherSettings(Section):
    url: str = ""
    """A server that speaks OpenAI's protocol: "http://localhost:11434/v1" (Ollama), LM Studio, llama.cpp, vLLM, a paid
    API. This or gguf makes tunesmith write rows with a teacher."""
    gguf: str = ""
    """Or a .gguf file, or "starter": llama.cpp serves it in the background and is stopped afterwards."""
    model: str = ""
    """The model's name there; empty: the only one that the server has."""
    key: str = ""
    """The name of the environment variable that holds the key, never the key; empty: TUNESMITH_TEACHER_KEY, else
    OPENAI_API_KEY."""
    way: Literal["documents", "topics", "questions"] = "documents"
    """What rows are made from: "documents" (questions that a passage answers), "topics" (one a line: questions people
    ask about them), existing "questions"."""
    sources: Sources = ()
    """The documents, topics or questions: files, folders or tables, as in data.sources."""
    passage: Annotated[int, Field(ge=32)] = 512
    """For documents: about how many tokens a passage has at most. Each is asked about by itself."""
    questions: Annotated[int, Field(ge=1)] = 5
    """How many questions are asked for about each passage, or each topic (with each start)."""
    phrasings: Annotated[int, Field(ge=1)] = 2
    """For documents: in how many wordings each question is learned."""
    start: tuple[str, ...] = ()
    """For topics: how questions begin ("How do I", "Can I"); each is asked for by itself."""
    follow_up: bool = False
    """Go on with the question that a person would ask next, and its answer."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the passages or questions that are asked about once more in other words, to measure with."""
    prompts: str = ""
    """A folder with prompts of your own; a file there replaces that of the same name in teacher/prompts."""
    judge: str = ""
    """A model of the same server that judges every answer; empty: none does."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    """How freely the teacher words what it writes; 0: always the likeliest."""
    max_tokens: Annotated[int, Field(ge=16)] = 1024
    """Longest reply; one that is cut off there is asked for again."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a reply that cannot be used is asked for again, with the reason."""
    parallel: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests under way at once."""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which a reply is not waited for any longer, and asked for again."""
    most_requests: Annotated[int, Field(ge=1)] | None = None
    """Budget: stop after so many replies, over all starts of the run; empty: no limit."""
    most_tokens: Annotated[int, Field(ge=1)] | None = None
    """Budget: stop before prompts and replies have more tokens than that."""
    most_money: Annotated[float, Field(gt=0)] | None = None
    """Budget: stop before it costs more than that; needs price."""
    price: PriceSettings = PriceSettings()
    """What the server charges."""

    @model_validator(mode="after")
    def _goes_together(self) -> TeacherSettings:
        if self.url and self.gguf:
            raise PydanticCustomError("teacher", "url and gguf are two teachers; name one of them")
        if self.most_money is not None and not (self.price.input or self.price.output):
            raise PydanticCustomError("teacher", "most_money needs price = {{input = …, output = …}}")
        if self.start and self.way != "topics":
            raise PydanticCustomError("teacher", 'start goes with way = "topics"')
        return self

    @property
    def is_set(self) -> bool:
        """Whether there is a teacher."""
        return bool(self.url or self.gguf)


Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraSettings(Section):
    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the update: how much can be learned, and how large the adapter gets."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the update's inputs set to zero while training."""
    modules: Annotated[tuple[Module, ...], Field(min_length=1)] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # fmt: skip
    """Which projections of a layer learn."""


class TrainSettings(Section):
    epochs: Annotated[int, Field(ge=1)] = 3
    """How often every row is seen."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after that many optimizer steps instead of after epochs."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Rows in an optimizer step."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Rows computed at once; less than batch saves memory and changes nothing else. On a CPU the torch engine takes few
    at once by itself."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Gradients longer than that are shortened to it; 0: never."""
    layers: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    """Train the top k layers, or "all"."""
    lora: LoraSettings = LoraSettings()
    """The shape of the adapter."""
    prefix: Literal["auto", "off"] = "auto"
    """Compute the layers below the trained ones once for each row and keep that on disk, where it saves time."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations, each with a checkpoint that is kept; empty: ten in a run."""
    fit: Literal["check", "take", "off"] = "check"
    """Before training, see whether it fits into memory, by an estimate and one real step; where it does not, "check"
    says what would, "take" takes it. "off" does not look."""
    save_minutes: Annotated[float, Field(gt=0)] = 2.0
    """A crash loses at most that many minutes."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after that many validations without a better loss; empty: never."""
    seed: int = 0
    """Draws another adapter to start from and another order of rows."""


class LossTask(Section):
    kind: Literal["loss"] = "loss"


class SqlTaskSettings(Section):
    kind: Literal["sql"] = "sql"
    database: str | None = None
    """An .sql script or an SQLite file that all questions are about."""
    tables: str | None = None
    """Or WikiSQL's tables, one of which each question is about."""

    @model_validator(mode="after")
    def _one_of_them(self) -> SqlTaskSettings:
        if (self.database is None) == (self.tables is None):
            raise PydanticCustomError("sql", 'the task sql needs database = "…" or tables = "…", one of them')
        return self


def _as_task(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Task = Annotated[LossTask | SqlTaskSettings, Field(discriminator="kind"), BeforeValidator(_as_task)]


class EvaluateSettings(Section):
    tasks: tuple[Task, ...] = (LossTask(),)
    """What is measured on the test rows: "loss", or tables such as {kind = "sql", database = "shop.sql"}."""
    checkpoints: bool = True
    """Measure the loss of every checkpoint, not only of the base and the result."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Longest answer that a model may give."""
    batch: Annotated[int, Field(ge=1)] = 64
    """Rows computed at once."""

    @model_validator(mode="after")
    def _each_once(self) -> EvaluateSettings:
        kinds = [task.kind for task in self.tasks]
        if len(set(kinds)) < len(kinds):
            raise PydanticCustomError("tasks", "each kind of task can be measured once")
        return self


Limit = Literal["kl", "largest_kl", "top1", "perplexity", "difference", "run_on"]
GgufKind = Literal["f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]


class ProofSettings(Section):
    tokens: Annotated[int, Field(ge=16)] = 1024
    """Held-out tokens whose logits are compared."""
    prompts: Annotated[int, Field(ge=1)] = 12
    """Held-out questions that the trained model and the file both answer."""
    questions: Annotated[int, Field(ge=0)] = 100
    """Test questions that each file answers in llama.cpp, graded as in evaluation; 0: none."""
    limits: dict[GgufKind, dict[Limit, float]] = {}
    """Other limits than the measured ones in export/proof_limits.py: {q4_k_m = {kl = 0.3}}."""


class ExportSettings(Section):
    formats: tuple[str, ...] = ()
    """What a finished run becomes: "gguf:q4_k_m" (or f16, bf16, q8_0, q6_k, q5_k_m), "lora" (the adapter as GGUF),
    "merged" (a Hugging Face folder), "mlx" (4 bit), "mlx-lora" (the adapter for mlx-lm), "ollama:NAME", "lmstudio"."""
    proof: ProofSettings = ProofSettings()
    """How closely every GGUF is compared with the trained model."""


class Recipe(Section):
    """Everything about one run. Only ``[data] sources`` is required, or a teacher with ``sources``."""

    model: ModelSettings = ModelSettings()
    teacher: TeacherSettings = TeacherSettings()
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    export: ExportSettings = ExportSettings()

    def folder(self) -> Path:
        """Where the paths of sources and tasks start."""
        return Path(self.data.folder)


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a TOML file, with overrides by dotted name (``{"train.epochs": 3}``).

    Raises `RecipeError` when the file is missing, is not TOML, or holds a setting that is unknown,
    missing or out of range; the message names the nearest right one.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}; `tunesmith demo` shows one at work") from None
    except IsADirectoryError:
        raise RecipeError(f"{path} is a folder; name the recipe file in it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}") from None
    given = dict(overrides or {})
    if "data.folder" in given:  # named from where one stands, not from where the recipe lies
        given["data.folder"] = str(Path(given["data.folder"]).absolute())
    return make_recipe(values, given, where=str(path), folder=path.parent)


def make_recipe(values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None,
                where: str = "the recipe", folder: Path = Path()) -> Recipe:  # fmt: skip
    """A recipe from a nested mapping; ``folder`` is where data.folder and a model's path start."""
    merged = _copy(values)
    for name, value in (overrides or {}).items():
        _put(merged, name.split("."), value)
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        raise RecipeError(_sentence(where, error, overrides or {})) from None
    _check_teacher(where, recipe.teacher)
    if not recipe.data.sources and not recipe.teacher.is_set:
        raise RecipeError(f'{where}: data.sources is missing; name your files, as in sources = ["rows.jsonl"]')
    data = recipe.data.model_copy(update={"folder": str((folder / recipe.data.folder).resolve())})
    model = recipe.model
    for start in (folder, Path()):  # a path, if there is one: beside the recipe, or from here
        if model.name != "starter" and (start / model.name).exists():
            model = model.model_copy(update={"name": str((start / model.name).resolve())})
    teacher = recipe.teacher
    for name, start in (("gguf", folder), ("gguf", Path()), ("prompts", folder)):
        path = getattr(teacher, name)
        if path and path != "starter" and (name == "prompts" or (start / path).exists()):
            teacher = teacher.model_copy(update={name: str((start / path).resolve())})
    return recipe.model_copy(update={"data": data, "model": model, "teacher": teacher})


def _check_teacher(where: str, teacher: TeacherSettings) -> None:
    if teacher.is_set and not teacher.sources:
        raise RecipeError(f"{where}: teacher.sources is missing; name the documents, topics or questions to start from")
    if not teacher.is_set and teacher != TeacherSettings():
        raise RecipeError(f"{where}: [teacher] needs a url, or a gguf to serve; it has neither")


def parse_value(text: str) -> Any:
    """A flag's value as TOML would read it; what is no TOML is a plain string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def every_field(section: type[Section] = Recipe, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Dotted name -> (default, help) of every setting: for help pages, and for the test that none is dead."""
    fields: dict[str, tuple[Any, str]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            fields |= every_field(type(field.default), f"{prefix}{name}.")
        else:
            # One line: a line break in the code is none in a row of a table.
            fields[prefix + name] = (field.default, " ".join((field.description or "").split()))
    return fields


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = values[part] = {}
        values = inner
    values[path[-1]] = value


def _sentence(where: str, error: ValidationError, overrides: Mapping[str, Any]) -> str:
    """pydantic's first error, as one sentence that says what to do; it names the flag, if that brought it."""
    faults = error.errors()
    # A share of the rows may also be files: then it is one of these that is wrong, not that they are no number.
    first = next((fault for fault in faults if fault["type"] != "float_type"), faults[0])
    path = [str(part) for part in first["loc"] if _is_name(part)]
    name, unknown = ".".join(path), first["type"] == "extra_forbidden"
    for flag in overrides:
        if flag == name or (unknown and flag.startswith(f"{name}.")):  # of trian.epochs pydantic only says trian
            return _fault(first, flag.split("."), "--")
        if name.startswith(f"{flag}."):
            return f"--{flag}: {_fault(first, path)}"
        if flag.startswith(f"{name}."):
            where = f"{where} with --{flag}"
    return f"{where}: {_fault(first, path)}"


def _fault(fault: ErrorDetails, path: list[str], dashes: str = "") -> str:
    name, given, expected = ".".join(path), fault["input"], fault.get("ctx", {})
    if fault["type"] == "extra_forbidden":
        return f"{dashes}{name} is not a setting{_instead(path, dashes)}"
    if fault["type"] == "tuple_type" and isinstance(given, str):
        return f"{dashes}{name}: write it in brackets, [{json.dumps(given, ensure_ascii=False)}]"
    words = re.findall("'([^']*)'", str(expected.get("expected") or expected.get("expected_tags") or ""))
    near = difflib.get_close_matches(str(expected.get("tag", given)), words, 1)
    if fault["type"] == "literal_error" and fault["loc"][-1] == "[key]":
        near = difflib.get_close_matches(path[-1], words, 1)
    said = f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
    return f"{dashes}{name}: {said}" + (f"; did you mean {near[0]!r}?" if near else "")


def _is_name(part: int | str) -> bool:
    """pydantic also names the branches of unions, such as "tuple[...]" or "function-before"."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("float", "int", "str", "none"))


def _instead(path: list[str], dashes: str) -> str:
    """What a setting that is not there was probably meant to be."""
    if any(part.isdigit() for part in path):  # in a table of a list
        names = _names_beside(path)
        close = difflib.get_close_matches(path[-1], names, 1)
        return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
    everything = [*every_field(), *Recipe.model_fields]
    by_last = {name.rsplit(".", 1)[-1]: name for name in everything}
    close = difflib.get_close_matches(".".join(path), everything, 1, cutoff=0.6)
    close = close or [by_last[last] for last in difflib.get_close_matches(path[-1], by_last, 1, cutoff=0.6)]
    return f"; did you mean {dashes}{close[0]}?" if close else ""


def _names_beside(path: list[str]) -> list[str]:
    """The settings that may stand where the last one of ``path`` does."""
    sections: list[type[Section]] = [Recipe]
    for part in path[:-1]:
        fields = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        sections = [inner for field in fields for inner in _sections(field)] or sections
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _sections(annotation: Any) -> list[type[Section]]:
    if arguments := get_args(annotation):
        return [section for argument in arguments for section in _sections(argument)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Section) else []
