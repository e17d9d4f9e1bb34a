from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import CHATML, write_chat

from tunesmith.errors import ModelError
from tunesmith.export.go_template import literal, quote, render
from tunesmith.export.ollama_template import conversations, derive, stops
from tunesmith.models.chat import ChatFormat

_TEMPLATES = sorted((Path(__file__).parents[2].parent / "shared" / "data" / "chat-templates").glob("*.jinja"))
needs_templates = pytest.mark.skipif(not _TEMPLATES, reason="the real chat templates are not on this machine")
needs_go = pytest.mark.skipif(not shutil.which("go"), reason="go is not installed (Debian: golang-go)")
_QWEN = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nI am default.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Go = Callable[[list[tuple[str, list[dict[str, str]]]]], list[str]]


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Go:
    """Renders (template, messages) pairs with Go's text/template, as Ollama does."""
    program = tmp_path_factory.mktemp("go") / "render"
    source = Path(__file__).parent / "go" / "render.go"
    offline = {**os.environ, "GO111MODULE": "off", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    subprocess.run(["go", "build", "-o", str(program), str(source)], check=True, env=offline)

    def rendered(pairs: list[tuple[str, list[dict[str, str]]]]) -> list[str]:
        asked = json.dumps([{"template": template, "messages": messages} for template, messages in pairs])
        ran = subprocess.run([program], input=asked.encode(), capture_output=True, check=True)
        return [answer.get("error") or answer["text"] for answer in json.loads(ran.stdout)]

    return rendered


def _chat(folder: Path, template: str, **config: object) -> ChatFormat:
    values = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, **config}
    return ChatFormat(write_chat(folder / "chat", template, **values))


def _trained(chat: ChatFormat, messages: list[dict[str, str]]) -> str | None:
    try:
        return chat.render(messages, ask=True).removeprefix("<s>")
    except ModelError:
        return None


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# -- the real templates ----------------------------------------------------------------------------


@needs_templates
@pytest.mark.parametrize("path", _TEMPLATES, ids=lambda path: path.stem)
def test_a_real_template_is_derived_exactly(path: Path, tmp_path: Path) -> None:
    chat = _chat(tmp_path, path.read_text(encoding="utf-8"))
    derived = derive(chat)
    assert derived.exact, derived.differences
    compared = [(_trained(chat, m), render(derived.template, m)) for _, m in conversations()]
    assert sum(trained is not None for trained, _ in compared) >= 15  # those that refuse system messages
    assert all(sent == trained for trained, sent in compared if trained is not None)


@needs_go
@needs_templates
def test_go_renders_every_derived_template_as_it_was_trained(go: Go, tmp_path: Path) -> None:
    exact = 0
    for path in _TEMPLATES:
        chat = _chat(tmp_path / path.stem, path.read_text(encoding="utf-8"))
        template = derive(chat).template
        asked = [messages for _, messages in conversations()]
        sent = go([(template, messages) for messages in asked])
        assert sent == [render(template, messages) for messages in asked], path.stem
        exact += all(_trained(chat, m) in (None, text) for m, text in zip(asked, sent, strict=True))
    assert exact >= 22


# -- what templates do -----------------------------------------------------------------------------


def test_chatml_reads_as_a_person_would_write_it(tmp_path: Path) -> None:
    derived = derive(_chat(tmp_path, CHATML))
    assert derived.exact
    assert derived.template == (
        '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        "{{ end }}{{ end }}<|im_start|>assistant\n"
    )


def test_a_default_system_prompt_is_kept_and_an_own_one_takes_its_place(tmp_path: Path) -> None:
    template = derive(_chat(tmp_path, _QWEN)).template
    assert "I am default." in render(template, [_user("a"), _assistant("b"), _user("c")])
    assert "I am default." not in render(template, [{"role": "system", "content": ""}, _user("a")])


def test_the_first_bos_is_left_out_where_the_tokenizer_puts_it(tmp_path: Path) -> None:
    jinja = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    assert not render(derive(_chat(tmp_path / "a", jinja)).template, [_user("a")]).startswith("<s>")
    kept = derive(_chat(tmp_path / "b", jinja, add_bos_token=False)).template
    assert render(kept, [_user("a")]).startswith("<s>")


def test_a_model_whose_bos_opens_turns_keeps_it(tmp_path: Path) -> None:
    chat = _chat(tmp_path, _QWEN, bos_token="<|im_start|>", add_bos_token=False)
    assert render(derive(chat).template, [_user("a")]).startswith("<|im_start|>system\nI am default.")


def test_a_refused_system_message_goes_before_the_first_question_and_is_told(tmp_path: Path) -> None:
    jinja = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    )
    derived = derive(_chat(tmp_path, jinja))
    assert derived.exact
    assert derived.differences == [
        "the model's own template refuses a system message; in Ollama its text stands before the first question"
    ]
    messages = [{"role": "system", "content": "S"}, _user("a"), _assistant("b"), _user("c")]
    assert render(derived.template, messages) == "[user]S\n\na[assistant]b[user]c[assistant]"


@needs_go
@pytest.mark.parametrize("trim", ["strip", "lstrip", "rstrip"])
def test_trimming_is_done_by_go_as_by_python(trim: str, go: Go, tmp_path: Path) -> None:
    chat = _chat(tmp_path, "{% for m in messages %}({{ m.content." + trim + "() }}){% endfor %}")
    derived = derive(chat)
    assert derived.exact
    blanks = [chr(c) for c in range(0x110000) if chr(c).isspace()]
    texts = [*(f"{b}{b}x{b}y{b}" for b in blanks), "".join(blanks), "", " ", "é\u3000", "\u3000", " " * 5000 + "x"]
    expected = [_trained(chat, [_user(text)]) for text in texts]
    assert go([(derived.template, [_user(text)]) for text in texts]) == expected
    assert [render(derived.template, [_user(text)]) for text in texts] == expected


def test_what_cannot_be_the_same_is_said(tmp_path: Path) -> None:
    jinja = "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{% endfor %}[assistant]"
    derived = derive(_chat(tmp_path, jinja))
    assert not derived.exact
    assert derived.template
    [said] = derived.differences
    assert said.startswith("thinking in earlier answers: trained on …")


def test_a_template_that_forgets_messages_gives_none(tmp_path: Path) -> None:
    derived = derive(_chat(tmp_path, "{{ messages[-1].content }}"))
    assert (derived.template, derived.exact) == ("", False)
    assert "leaves messages out" in derived.differences[0]


def test_a_template_for_one_question_only_gives_none(tmp_path: Path) -> None:
    chat = _chat(
        tmp_path, "{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}[{{ messages[0].content }}"
    )
    derived = derive(chat)
    assert (derived.template, derived.exact) == ("", False)
    assert "refuses these messages: one" in derived.differences[0]
    assert stops(chat) == ["</s>"]


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        derive(ChatFormat(write_chat(tmp_path / "chat", None)))


# -- stops -----------------------------------------------------------------------------------------


@needs_templates
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatml-06", {"<|im_start|>", "<|im_end|>"}),
        ("llama3-instruct-24", {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}),
        ("mistral-instruct-10", {"[INST]", "[/INST]", "</s>"}),
        ("gemma-instruct-21", {"<start_of_turn>", "<end_of_turn>"}),
        ("phi-3-31", {"<|end|>", "<|system|>", "<|user|>", "<|assistant|>"}),
        ("alpaca-19", {"<|EOT|>", "\n### Instruction:"}),
        ("falcon-instruct-34", {"\nUser:"}),
    ],
)
def test_stops_are_the_end_tokens_and_the_openings_of_turns(name: str, expected: set[str], tmp_path: Path) -> None:
    [path] = [path for path in _TEMPLATES if path.stem == name]
    assert set(stops(_chat(tmp_path, path.read_text(encoding="utf-8")))) == expected | {"</s>"}


def test_a_thinking_tag_and_bos_are_no_stops(tmp_path: Path) -> None:
    jinja = CHATML.replace("assistant\n", "assistant\n<think>\n").replace("{% for", "{{ bos_token }}{% for", 1)
    assert stops(_chat(tmp_path, jinja, eos_token="<|im_end|>")) == ["<|im_end|>", "<|im_start|>"]


# -- the template language -------------------------------------------------------------------------


@given(
    st.text(alphabet=st.one_of(st.sampled_from('{}"- \n\t\\%\u3000\u200b'), st.characters(exclude_categories=["Cs"])))
)
def test_any_text_can_be_written_as_a_literal(text: str) -> None:
    written = literal(text)
    assert render(written + "{{ .System }}" + literal(text), [_user("a")]) == text + text
    assert '"""' not in written
    assert all(c.isprintable() or c in "\n\t" for c in written)


@needs_go
def test_go_reads_literals_as_they_were_written(go: Go) -> None:
    texts = ["{{", "{", '"""', "a{\u3000{{b}}", "\u200b\U000e0001\x00", "é“”\\n`", "{{/* */}}", "- x -", '{{ "', "-}}"]
    written = [literal(t) + "{{ range .Messages }}{{ end }}" + literal(t) for t in texts]
    assert go([(w, [_user("a")]) for w in written]) == [t + t for t in texts]
    quoted = [f"{{{{ range .Messages }}}}{{{{ {quote(t)} }}}}{{{{ end }}}}" for t in texts]
    assert go([(q, [_user("a")]) for q in quoted]) == texts


@needs_go
def test_neighbours_of_one_role_and_systems_in_between_come_out_as_in_go(go: Go, tmp_path: Path) -> None:
    template = derive(_chat(tmp_path, _QWEN)).template + "|{{ .System }}"
    system = {"role": "system", "content": "s"}
    for messages in ([_user("a"), _user("b")], [system, system, _user("a"), system], [_assistant("a"), _user("b")]):
        assert [render(template, messages)] == go([(template, messages)])


@needs_go
def test_the_go_program_runs_the_older_form_too(go: Go) -> None:
    messages = [{"role": "system", "content": "s"}, _user("a"), _assistant("b"), _user("c")]
    older = "{{ if .System }}[{{ .System }}]{{ end }}<{{ .Prompt }}>{{ .Response }}."
    assert go([(older, messages), ("{{ .Prompt }}|", messages)]) == ["[s]<a>b.<c>", "a|bc|"]


@pytest.mark.parametrize(
    "template", ["{{- .System }}", "{{ .System | printf }}", "{{ if .System }}", "{{ end }}", "{{"]
)
def test_what_is_not_of_this_language_is_refused(template: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        render(template, [_user("a")])
