import io
import json
import os

import pytest

from tunesmith.cli.chat import chat
from tunesmith.errors import EngineError, StorageError, TunesmithError


class Parrot:
    """Answers with how many messages it saw, in two pieces; its base says less."""

    name = "parrot"
    adapter = True

    def __init__(self):
        self.seen, self.system, self.drawn = [], "", []

    def answer(self, messages, on_text, *, adapter=None, temperature=0, seed=0):
        self.seen.append([(m["role"], m["content"]) for m in messages])
        self.drawn.append((temperature, seed))
        last = messages[-1]["content"]
        if last.startswith("stop me"):
            on_text("so far")
            raise KeyboardInterrupt
        if last == "fail":
            raise EngineError("too long")
        text = "…" if adapter is False else f"{len(messages)}: {last}"
        on_text(text[:1])
        on_text(text[1:])
        return text


pytestmark = pytest.mark.usefixtures("fresh_consoles")


def piped(monkeypatch, text, model=None):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    model = model or Parrot()
    chat(model)
    return model


def typed(monkeypatch, lines, tmp_path, model=None):
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
    model = model or Parrot()
    chat(model)
    return model


def test_piped_questions_give_answers_and_nothing_else(monkeypatch, capsys):
    piped(monkeypatch, "你好\n\n/system Be brief.\nwho?\n")
    assert capsys.readouterr().out == "1: 你好\n3: who?\n"
    for mistake in ("/nonsense", "/retry", "/save a.md"):
        with pytest.raises(TunesmithError):
            piped(monkeypatch, f"{mistake}\n")


def test_a_conversation_remembers_until_it_is_reset(monkeypatch):
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


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_what_is_no_command_what_there_is(monkeypatch, capsys, tmp_path):
    typed(monkeypatch, [KeyboardInterrupt(), "/help", "/nonsense"], tmp_path)
    shown = capsys.readouterr()
    assert "Ctrl-D leaves\n" in shown.out
    assert shown.out.count("/save FILE") == 1
    assert "there is no /nonsense; /help says what there is" in shown.err


def test_escape_sequences_do_not_reach_the_terminal(monkeypatch, capsys, tmp_path):
    model = Parrot()
    model.name = model.system = "\x1b[31mred"
    typed(monkeypatch, ["\x1b[31mred", "/system", "/compare", "\x1b]0;title\x07", "/\x1b[2J"], tmp_path, model)
    assert "\x1b" not in "".join(capsys.readouterr())


def test_several_lines_between_quotes_are_one_question(monkeypatch, tmp_path):
    model = typed(monkeypatch, ['"""first', "", '  second"""', '"""alone"""'], tmp_path)
    assert [messages[-1][1] for messages in model.seen] == ["first\n\n  second", "alone"]


def test_the_system_message_is_shown_and_set(monkeypatch, capsys, tmp_path):
    model = typed(monkeypatch, ["/system", "/system 你是诗人。", "/system"], tmp_path)
    assert model.system == "你是诗人。"
    shown = capsys.readouterr().out
    assert "there is no system message" in shown
    assert "system: 你是诗人。" in shown


def test_another_answer_takes_the_place_of_the_last_and_is_drawn_anew(monkeypatch, tmp_path):
    model = typed(monkeypatch, ["/retry", "a", "/retry", "/retry", "b"], tmp_path)
    assert [messages[-1] for messages in model.seen] == [("user", "a")] * 3 + [("user", "b")]
    assert model.drawn == [(0.0, 0), (0.8, 1), (0.8, 2), (0.0, 0)]
    assert model.seen[-1] == [("user", "a"), ("assistant", "1: a"), ("user", "b")]


def test_another_answer_that_fails_leaves_the_first(monkeypatch, tmp_path):
    model = Parrot()
    once = model.answer
    model.answer = lambda messages, on_text, **how: once(
        [{"role": "user", "content": "fail"}] if how["seed"] else messages, on_text, **how
    )
    typed(monkeypatch, ["a", "/retry", "b"], tmp_path, model)
    assert model.seen[-1] == [("user", "a"), ("assistant", "1: a"), ("user", "b")]


def test_a_saved_conversation_is_a_row_to_learn_from(monkeypatch, tmp_path):
    from tunesmith.settings import SourceTable
    from tunesmith.sources.read import read_source
    from tunesmith.sources.rows import read_block

    piped(monkeypatch, f"/system 简短。\n你好\nwhy?\n/save {tmp_path}/好 rows.jsonl\n")
    (block,) = read_source(SourceTable(path="好 rows.jsonl"), tmp_path)
    (example,) = read_block(block)
    said = [(m.role, m.content) for m in example.messages]
    assert said == [("system", "简短。"), ("user", "你好"), ("assistant", "1: 你好"), ("user", "why?"),
                    ("assistant", "3: why?")]  # fmt: skip


def test_a_saved_conversation_can_be_read(monkeypatch, tmp_path):
    piped(monkeypatch, f"/system Brief.\nhello\n/save {tmp_path / 'talk.md'}\n")
    assert (tmp_path / "talk.md").read_text() == "# parrot\n\n*Brief.*\n\n**You**\n\nhello\n\n**parrot**\n\n1: hello\n"


def test_saving_never_writes_over_a_file_unless_it_is_told_to(monkeypatch, tmp_path, capsys):
    path = tmp_path / "mine.jsonl"
    path.write_text("mine")
    with pytest.raises(StorageError, match=r"mine\.jsonl is there already; /save! .*mine\.jsonl writes over it"):
        piped(monkeypatch, f"a\n/save {path}\n")
    assert path.read_text() == "mine"
    piped(monkeypatch, f"a\n/save! {path}\n")
    assert json.loads(path.read_text())["messages"][0] == {"role": "user", "content": "a"}
    typed(monkeypatch, [f"/save {tmp_path / 'b.md'}", "a", "/save b.docx", "/save"], tmp_path)
    shown = capsys.readouterr()
    assert "there is nothing to save yet" in shown.err
    assert shown.err.count("name a file that ends in .jsonl") == 2


def test_base_and_tuned_both_answer_and_the_tuned_one_is_remembered(monkeypatch, capsys):
    model = piped(monkeypatch, "/compare\na\nb\n/compare\nc\n")
    assert capsys.readouterr().out == "tuned\n1: a\nbase\n…\ntuned\n3: b\nbase\n…\n5: c\n"
    assert model.seen[-1][:3] == [("user", "a"), ("assistant", "1: a"), ("user", "b")]


def test_ctrl_c_in_the_base_leaves_the_answer_of_the_tuned(monkeypatch, tmp_path):
    model = Parrot()
    whole = model.answer

    def answer(messages, on_text, *, adapter=None, **how):
        if adapter is False:
            raise KeyboardInterrupt
        return whole(messages, on_text, adapter=adapter, **how)

    model.answer = answer
    typed(monkeypatch, ["/compare", "a", "/compare", "b"], tmp_path, model)
    assert model.seen[-1] == [("user", "a"), ("assistant", "1: a"), ("user", "b")]


def test_a_model_without_a_base_compares_nothing(monkeypatch, capsys, tmp_path):
    model = Parrot()
    model.adapter = False
    typed(monkeypatch, ["/compare", "a"], tmp_path, model)
    assert "only a run has both" in capsys.readouterr().err
    assert len(model.seen) == 1


def test_keys_pressed_while_an_answer_is_written_do_not_appear_in_it_and_are_kept_when_it_is_stopped(
    monkeypatch, tmp_path
):
    termios = pytest.importorskip("termios")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    keyboard, terminal = os.openpty()
    echoes = []

    def echo():
        return [bool(termios.tcgetattr(terminal)[3] & flag) for flag in (termios.ECHO, termios.NOFLSH)]

    model = Parrot()
    model.answer = lambda messages, on_text, **how: echoes.append(echo()) or "yes"
    lines = iter(["a"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines, None) or leave())
    with os.fdopen(terminal) as stdin, os.fdopen(keyboard):
        monkeypatch.setattr("sys.stdin", stdin)
        chat(model)
        assert echoes == [[False, True]]
        assert echo() == [True, False]


def leave():
    raise EOFError


@pytest.mark.parametrize(("columns", "beside"), [(100, True), (40, False)])
def test_both_answers_stand_side_by_side_where_there_is_room(monkeypatch, capsys, tmp_path, columns, beside):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    typed(monkeypatch, ["/compare", "你好，今天的天气怎么样？" * 6, "stop me now"], tmp_path)
    lines = capsys.readouterr().out.split("\n")
    assert any("…" in line and "1:" in line for line in lines) == beside
    assert any("so far" in line for line in lines), "what a stopped answer said stays on the screen"
