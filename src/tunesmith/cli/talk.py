"""One conversation with a model, and what may be said in it beside questions."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rich.live import Live

from tunesmith import files
from tunesmith.cli.answers import NARROW, Answers
from tunesmith.cli.console import standard_output, visible
from tunesmith.errors import ModelError, StorageError, TunesmithError

HELP = """\
/system TEXT   set the system message; without TEXT, show it
/compare       base and tuned model both answer; again: the tuned alone
/retry         another answer to the last question
/save FILE     keep the conversation: .jsonl as a row to learn from, .md to read
/reset         forget the conversation
/exit          leave, as Ctrl-D does; Ctrl-C stops an answer only
\"""            begins and ends a question of several lines"""
RETRIED = 0.8
"""The temperature of another answer: the likeliest one was given already."""
SECONDS_A_FRAME = 0.1

Messages = list[dict[str, str]]
OnText = Callable[[str], None]


class Chat(Protocol):
    """What is talked to."""

    system: str
    """Put in front of every conversation."""

    @property
    def name(self) -> str: ...

    @property
    def adapter(self) -> bool:
        """Whether it is a tuned model, whose base can answer too."""
        ...

    def answer(
        self, messages: Messages, on_text: OnText, *, adapter: bool | None = None, temperature: float = 0, seed: int = 0
    ) -> str: ...


class Talk:
    """A conversation; ``say`` is told what is no answer."""

    def __init__(self, model: Chat, say: OnText) -> None:
        self.model, self.say = model, say
        self.messages: Messages = []
        self.comparing = False
        self._draws = 0
        self._stopped: Messages = []
        """Answers that were not written to their end."""

    def hear(self, line: str) -> bool:
        """Answer a question, or do what a line beginning with / asks for. False when that is to leave.

        Raises what the model raises, and `StorageError`; the conversation is then as it was before.
        """
        name, _, rest = line.partition(" ")
        if not line.startswith("/"):
            if line:
                self._answer(line)
        elif name in ("/exit", "/quit"):
            return False
        elif command := COMMANDS.get(name):
            command(self, rest.strip())
        else:
            if name != "/help":
                raise TunesmithError(f"there is no {visible(name)}; /help says what there is")
            self.say(HELP)
        return True

    # -- commands --------------------------------------------------------------------------------

    def reset(self, _: str) -> None:
        self.messages.clear()
        self.say("forgotten")

    def set_system(self, text: str) -> None:
        if text:
            self.model.system = text
            self.say("it holds from the next answer on")
        else:
            known = self.model.system
            self.say(f"system: {visible(known)}" if known else "there is no system message; /system TEXT sets one")

    def compare(self, _: str) -> None:
        if not self.model.adapter:
            raise ModelError(f"{visible(self.model.name)} has no base beside it: only a run has both")
        self.comparing = not self.comparing
        self.say("base and tuned both answer; the conversation goes on with the tuned one's answers"
                 if self.comparing else "the tuned model answers alone")  # fmt: skip

    def retry(self, _: str) -> None:
        if not self.messages:
            raise TunesmithError("there is no answer to retry yet; ask something first")
        before = list(self.messages)
        while self.messages[-1]["role"] != "user":
            self.messages.pop()
        question = self.messages.pop()["content"]
        self._draws += 1
        try:
            self._answer(question, temperature=RETRIED, seed=self._draws)
        except BaseException:
            if len(self.messages) < len(before):  # no other answer came
                self.messages[:] = before
            raise

    def save(self, name: str, *, over: bool = False) -> None:
        path = Path(name).expanduser()
        if not self.messages:
            raise StorageError("there is nothing to save yet; ask something first")
        if path.suffix not in (".jsonl", ".md"):
            raise StorageError(
                f"{name or '/save'}: name a file that ends in .jsonl, as a row to learn from, or .md, to read"
            )
        elif path.exists() and not over:
            raise StorageError(f"{path} is there already; /save! {name} writes over it")
        else:
            files.write_text(path, self._row() if path.suffix == ".jsonl" else self._page())
            stopped = "; an answer in it was stopped: mend it before it is learned"
            self.say(
                f"saved in {visible(str(path))}{stopped if any(m in self._stopped for m in self.messages) else ''}"
            )

    def save_over(self, name: str) -> None:
        self.save(name, over=True)

    def _row(self) -> str:
        system = [{"role": "system", "content": self.model.system}] if self.model.system else []
        return json.dumps({"messages": [*system, *self.messages]}, ensure_ascii=False) + "\n"

    def _page(self) -> str:
        parts = [f"# {self.model.name}", *([f"*{self.model.system}*"] if self.model.system else [])]
        for message in self.messages:
            parts.append(f"**{'You' if message['role'] == 'user' else self.model.name}**\n\n{message['content']}")
        return "\n\n".join(parts) + "\n"

    # -- answers ---------------------------------------------------------------------------------

    def _answer(self, question: str, *, temperature: float = 0.0, seed: int = 0) -> None:
        """What was said of a stopped answer stays in the conversation."""
        self.messages.append({"role": "user", "content": question})
        said: list[str] = []

        def ask(adapter: bool | None, on_text: OnText) -> str:
            return self.model.answer(list(self.messages), on_text, adapter=adapter, temperature=temperature, seed=seed)

        try:
            answer = _compare(ask, said) if self.comparing else _stream(ask, said)
        except BaseException as stopped:
            so_far = "".join(said).strip()
            if isinstance(stopped, KeyboardInterrupt) and so_far:
                self.messages.append({"role": "assistant", "content": so_far})
                self._stopped.append(self.messages[-1])
            else:
                self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": answer})


COMMANDS: dict[str, Callable[[Talk, str], None]] = {
    "/reset": Talk.reset, "/system": Talk.set_system, "/compare": Talk.compare, "/retry": Talk.retry,
    "/save": Talk.save, "/save!": Talk.save_over,
}  # fmt: skip
Ask = Callable[[bool | None, OnText], str]


def _stream(ask: Ask, said: list[str], adapter: bool | None = None) -> str:
    """Write an answer to stdout as it comes; ``said`` gets its pieces."""
    out = standard_output().file

    def on_text(text: str) -> None:
        said.append(text)
        out.write(visible(text))
        out.flush()

    answer = ask(adapter, on_text)
    if not said:
        on_text(answer)
    if not "".join(said).endswith("\n"):
        out.write("\n")
    return answer


def _compare(ask: Ask, said: list[str]) -> str:
    """Both answers. The tuned one's is returned, and its pieces are in ``said``; it comes first: bases ramble, and
    Ctrl-C then stops the base alone."""
    console = standard_output()
    if not console.is_terminal or console.is_dumb_terminal or console.width < NARROW:
        for name, pieces in (("tuned", said), ("base", list[str]())):
            console.print(Answers().title(name))
            _stream(ask, pieces, name == "tuned")
        return "".join(said).strip()
    shown = Answers(writing="tuned")
    try:
        with Live(shown, console=console, auto_refresh=False, transient=True) as live:
            for name, pieces in (("tuned", said), ("base", list[str]())):
                shown.writing = name
                shown.texts[name] = ask(name == "tuned", _into(shown, name, pieces, live))
    except KeyboardInterrupt:
        shown.stopped = True
        raise
    finally:
        shown.writing = ""
        console.print(shown)  # whole, also where it was stopped
    return shown.texts["tuned"]


def _into(shown: Answers, name: str, pieces: list[str], live: Live) -> OnText:
    """Puts what comes into a column, which is drawn a few times a second."""
    drawn = 0.0

    def on_text(text: str) -> None:
        nonlocal drawn
        pieces.append(text)
        shown.texts[name] = "".join(pieces)
        if time.monotonic() - drawn > SECONDS_A_FRAME:
            drawn = time.monotonic()
            live.refresh()

    return on_text
