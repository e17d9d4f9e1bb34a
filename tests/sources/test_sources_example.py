from __future__ import annotations

import json
from hashlib import sha256
from typing import get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.sources.example import Example, Message, Origin, Role

MESSAGES = st.lists(st.builds(Message, st.sampled_from(get_args(Role)), st.text(), st.booleans()), min_size=1)
EXTRA = st.dictionaries(st.sampled_from(["tools", "rejected", "label", "other"]), st.text() | st.booleans())


@given(MESSAGES, EXTRA, st.sampled_from(["", "表 7"]), st.sampled_from([Origin("f", 3), Origin("a b", None, "p")]))
def test_a_row_is_written_as_json_would_have_it_and_its_id_hashes_its_content(messages, extra, group, origin):
    example = Example(tuple(messages), origin, extra, group, ("a note",) if extra else ())
    turns = [[m.role, m.content, m.learn] for m in messages]
    told = {key: extra[key] for key in ("tools", "rejected", "label") if key in extra}
    written = example.written()
    assert written.line == orjson.dumps(example.to_json())
    assert written.id == sha256(orjson.dumps([turns, group, told] if told or group else turns)).hexdigest()[:16]
    assert [json.loads(text) for text in written.texts] == [m.content for m in messages]
    assert Example.from_json(json.loads(written.line)) == example


@pytest.mark.parametrize(("text", "number"), [("half \ud83d", 1), ("中", 2**70)])
def test_what_orjson_refuses_is_written_too(text, number):
    example = Example((Message("user", "q"), Message("assistant", text, True)), Origin("f", 1), {"n": number})
    row = json.loads(example.written().line)
    assert (row["id"], row["messages"][1]["content"], row["extra"]) == (example.id, text, {"n": number})
    assert example.id == Example(example.messages, example.origin).id
