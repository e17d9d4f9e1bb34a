import json
from html import unescape
from pathlib import Path

import pytest
from html_page import HOSTILE
from projects import client_of, write_run

from tunesmith.studio import row_files
from tunesmith.studio.row_files import RowFile


def row(number, question="Where?", answer="Here.", file="faq.jsonl"):
    return {
        "id": f"{number:016x}", "messages": [
            {"role": "user", "content": question, "learn": False},
            {"role": "assistant", "content": answer, "learn": True},
        ], "origin": {"file": file, "line": number + 1},
    }  # fmt: skip


def write_dataset(run: Path, train, quarantine=(), removed=()):
    folder = run / "dataset"
    folder.mkdir()
    for name, rows in (("train", train), ("valid", []), ("test", []), ("quarantine", quarantine), ("removed", removed)):
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    report = {
        "rows": {"train": len(train), "valid": 0, "test": 0},
        "quarantined": len(quarantine),
        "merged": len(removed),
    }
    (folder / "report.json").write_text(json.dumps(report))


def numbers(page):
    return [int(part.split("</b>")[0].replace(",", "")) for part in page.split("<header><b>")[1:]]


@pytest.fixture
def client(tmp_path):
    run = write_run(tmp_path, "a")
    rows = [
        row(n, f"Question {n}?", "是的。" if n % 2 else "Née À Paris", f"{'b' if n % 10 else 'B'}log/{n}.md")
        for n in range(45)
    ]
    quarantine = [{"file": "bad.csv", "line": 7, "reason": "the answer is empty", "text": "Where?,"}]
    write_dataset(run, rows, quarantine, [{"reason": "repeats another row", "of": {"file": "x.md"}, **row(3)}])
    return client_of(tmp_path)


def test_rows_are_turned_page_by_page(client):
    first = client.get("/data/a").text
    assert numbers(first) == list(range(1, 21))
    assert "/data/a?part=train&amp;from=20" in first
    assert numbers(client.get("/data/a?from=40").text) == list(range(41, 46))
    assert 'rel="next"' not in client.get("/data/a?from=25").text
    assert client.get("/data/a?from=99999").status_code == client.get("/data/a?from=-1&part=x").status_code == 200


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=question 7", [8]), ("q=是的&from=40", [42, 44]), ("file=LOG/3.md", [4]), ("q=née&file=blog/40", [41]),
        ("q=NÉE à&file=g/4.", [5]), ("q=assistant", []), ("q=nowhere", []), ("q=question&file=/44.md", [45]),
    ],
)  # fmt: skip
def test_rows_are_found_by_text_and_file_whatever_their_case(client, query, found):
    assert numbers(client.get(f"/data/a?{query}").text) == found


def test_many_finds_are_turned_page_by_page_too(client):
    first = client.get("/data/a?q=question").text
    assert numbers(first) == list(range(1, 21))
    assert "/data/a?part=train&amp;q=question&amp;from=20" in first
    assert 'rel="next"' not in client.get("/data/a?q=question&from=25").text


def test_what_is_learned_is_marked_and_left_out_rows_have_their_reason(client):
    page = client.get("/data/a").text
    assert page.count('class="message learned"') == 20
    page = client.get("/data/a?part=quarantine").text
    assert "the answer is empty" in page
    assert "bad.csv:7" in page
    assert "Where?," in page
    removed = client.get("/data/a?part=removed").text
    assert "repeats another row" in removed
    assert "x.md" in removed


def test_html_in_a_row_is_text(tmp_path):
    run, client = write_run(tmp_path, "a"), client_of(tmp_path)
    texts = [text for text in HOSTILE if "\ud800" not in text]
    write_dataset(
        run, [row(0, text, text, text) for text in texts], [{"file": t, "reason": t, "text": t} for t in texts]
    )
    for part in ("train", "quarantine"):
        page = client.get("/data/a", params={"part": part}).text
        assert len(numbers(page)) == len(texts)
        assert not any(tag in page for tag in ("<img", "<svg", "alert(1)>", "</style><"))
        assert not set(page) & set("\0\x1b\x7f\x85\u202e\u2066\u200f\u061c\u200b\ufeff")
    for text in texts:
        assert "<img" not in client.get("/data/a", params={"q": text, "file": text}).text


def test_a_long_row_is_cut_and_shown_whole_alone(tmp_path):
    run = write_run(tmp_path, "a")
    write_dataset(run, [row(n, "长" * 5000, "short") for n in range(20)])
    page = client_of(tmp_path).get("/data/a").text
    assert page.count("… and 4,600 more characters") == 20
    assert len(page.encode()) < 60_000
    alone = client_of(tmp_path).get("/data/a?from=3&alone=1").text
    assert numbers(alone) == [4]
    assert "长" * 5000 in alone


def test_a_large_file_is_read_only_as_far_as_was_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "PIECE", 10_000)
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row(n, f"Question {n}?")) for n in range(5000)]
    lines[7] = "{damaged"
    path.write_text("\n".join(lines))  # the last line has no end
    rows = RowFile(path)
    assert [number for number, _ in rows.rows(0, 10).rows] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert rows._indexed <= 20_000
    assert [number for number, _ in rows.search("question 4999?", "", 0, 20).rows] == [4999]
    last = rows.rows(4990, 20)
    assert (len(last.rows), last.more) == (10, None)
    stopped = RowFile(path).search("nowhere", "", 0, 20, patience=0)
    assert stopped.ended
    assert 0 < stopped.more < 5000
    assert RowFile(path).rows(4999, 1).rows[0][1]["id"] == f"{4999:016x}"


def test_an_empty_file_and_a_run_that_is_not_prepared_say_so(tmp_path):
    run, _ = write_run(tmp_path, "a"), write_run(tmp_path, "b")
    write_dataset(run, [])
    client = client_of(tmp_path)
    assert "No row is like that" in client.get("/data/a").text
    assert "No row is like that" in client.get("/data/a?q=x").text
    assert "not prepared yet" in client.get("/data/b").text


def test_the_tokens_that_are_learned_are_marked_as_the_model_sees_them(tmp_path, tiny_model):
    from tunesmith.dataset.prepare import prepare
    from tunesmith.settings import make_recipe

    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "q1 <b>", "completion": "嗨"}\n{"prompt": "q2", "completion": "a2"}\n'
    )
    data = {"sources": ["rows.jsonl"], "folder": str(tmp_path), "split": {"valid": 0.0, "test": 0.0}}
    recipe = make_recipe({"model": {"name": str(tiny_model)}, "data": data})
    run = write_run(tmp_path, "a", model=str(tiny_model))
    list(prepare(recipe.data, tiny_model, run / "dataset", workers=1))
    client = client_of(tmp_path)
    page = client.get("/tokens/a?part=train&from=0").text
    learned = unescape("".join(part.split("</mark>")[0] for part in page.split("<mark>")[1:]))
    assert learned == '<span>嗨</span><span class="s"><|im_end|></span>'
    assert "<b>" not in page
    assert "no tokens" in client.get("/tokens/a?from=77").text
    assert client.get("/tokens/a?part=quarantine").status_code == 404
