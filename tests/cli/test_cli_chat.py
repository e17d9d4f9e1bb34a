import io

import pytest

from tunesmith.cli import chat as room
from tunesmith.cli.chat import chat
from tunesmith.errors import EngineError


class Parrot:
    """Answers with how many messages it saw, in two pieces."""

    name = "parrot"

    def __init__(self):
        self.seen = []

    def answer(self, messages, on_text):
        self.seen.append([(m["role"], m["content"]) for m in messages])
        last = messages[-1]["content"]
        if last == "stop me":
            on_text("so far")
            raise KeyboardInterrupt
        if last == "fail":
            raise EngineError("too long")
        on_text(f"{len(messages)}: ")
        on_text(last)
        return f"{len(messages)}: {last}"


pytestmark = pytest.mark.usefixtures("fresh_consoles")


def piped(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    model = Parrot()
    chat(model)
    return model


def typed(monkeypatch, lines, tmp_path):
    """A terminal at which these lines are typed; an exception is what the keyboard sends."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    stdin = io.StringIO()
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", stdin)
    keys = iter([*lines, EOFError()])

    def read(prompt):
        line = next(keys)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    model = Parrot()
    chat(model)
    return model


def test_piped_questions_give_answers_and_nothing_else(monkeypatch, capsys):
    piped(monkeypatch, "你好\n\nwho?\n")
    assert capsys.readouterr().out == "1: 你好\n3: who?\n"


def test_a_conversation_remembers_until_it_is_reset(monkeypatch, capsys):
    model = piped(monkeypatch, "a\nb\n/reset\nc\n/exit\nd\n")
    assert [len(messages) for messages in model.seen] == [1, 3, 1]
    assert model.seen[1] == [("user", "a"), ("assistant", "1: a"), ("user", "b")]


def test_an_error_ends_a_piped_chat(monkeypatch):
    with pytest.raises(EngineError):
        piped(monkeypatch, "fail\n")


def test_ctrl_c_stops_the_answer_only_and_what_was_said_is_remembered(monkeypatch, capsys, tmp_path):
    model = typed(monkeypatch, ["stop me", "next"], tmp_path)
    assert model.seen[1] == [("user", "stop me"), ("assistant", "so far"), ("user", "next")]
    assert "stopped" in capsys.readouterr().out


def test_an_error_in_a_typed_chat_is_a_sentence_and_the_chat_goes_on(monkeypatch, capsys, tmp_path):
    model = typed(monkeypatch, ["fail", "next"], tmp_path)
    assert model.seen[1] == [("user", "next")]
    assert "tunesmith: too long" in capsys.readouterr().err


def test_ctrl_c_at_the_prompt_says_how_to_leave(monkeypatch, capsys, tmp_path):
    typed(monkeypatch, [KeyboardInterrupt(), "/help", "/nonsense"], tmp_path)
    shown = capsys.readouterr().out
    assert "Ctrl-D leaves" in shown
    assert shown.count(room.HELP) == 3


def test_escape_sequences_in_an_answer_do_not_reach_the_terminal(monkeypatch, capsys):
    piped(monkeypatch, "\x1b[31mred\n")
    assert capsys.readouterr().out == "1: ␛[31mred\n"
