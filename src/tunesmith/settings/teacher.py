"""``[teacher]``: a bigger model that writes rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from tunesmith.settings.data import Sources
from tunesmith.settings.section import Section


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
