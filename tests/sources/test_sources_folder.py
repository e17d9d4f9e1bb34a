from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith.errors import SourceError
from tunesmith.sources.folder import DEPTH, walk
from tunesmith.sources.quarantine import Quarantined


def files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, "utf-8")


def walked(folder: Path) -> tuple[list[str], dict[str, str]]:
    """(names of files, name -> reason of what was quarantined)"""
    seen = list(walk(folder, "notes"))
    return (
        [found[1] for found in seen if not isinstance(found, Quarantined)],
        {found.origin.file: found.reason for found in seen if isinstance(found, Quarantined)},
    )


def test_files_come_sorted_by_name_and_hidden_ones_not_at_all(tmp_path):
    files(tmp_path, "b.md", "a/z.md", "a/文章.md", "c/1.md", ".git/config", "a/.DS_Store")
    assert walked(tmp_path) == (["notes/a/z.md", "notes/a/文章.md", "notes/b.md", "notes/c/1.md"], {})


def test_each_path_can_be_opened_and_its_name_ends_alike(tmp_path):
    files(tmp_path, "a/b.md")
    ((path, name),) = [found for found in walk(tmp_path, "notes/") if not isinstance(found, Quarantined)]
    assert path.read_text("utf-8") == "a/b.md"
    assert name == "notes/a/b.md"


def test_links_are_followed_as_long_as_they_stay_inside(tmp_path):
    files(tmp_path, "elsewhere/x.md", "here/b/a.md")
    (tmp_path / "here" / "a.md").symlink_to(tmp_path / "here" / "b" / "a.md")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    names, reasons = walked(tmp_path / "here")
    assert names == ["notes/a.md"]
    assert "leads out of the folder" in reasons["notes/link"]


def test_what_a_run_wrote_is_not_read(tmp_path):
    files(tmp_path, "a.md", "runs/a/manifest.json", "runs/a/progress.jsonl", "runs/a/dataset/train.jsonl")
    assert walked(tmp_path) == (["notes/a.md"], {})


def test_a_loop_of_links_is_reported_once(tmp_path):
    files(tmp_path, "a/b.md")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    names, reasons = walked(tmp_path)
    assert names == ["notes/a/b.md"]
    assert reasons == {"notes/a/round": "the same folder as notes, which is read already; remove one of them"}


def test_a_file_with_two_names_is_read_once(tmp_path):
    files(tmp_path, "a.md")
    os.link(tmp_path / "a.md", tmp_path / "b.md")
    (tmp_path / "c.md").symlink_to(tmp_path / "a.md")
    names, reasons = walked(tmp_path)
    assert names == ["notes/a.md"]
    assert [reason.split(",")[0] for reason in reasons.values()] == ["the same file as notes/a.md"] * 2


def test_a_link_that_leads_nowhere_is_reported(tmp_path):
    (tmp_path / "gone.md").symlink_to(tmp_path / "nothing")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    assert set(walked(tmp_path)[1].values()) == {"a link that leads nowhere; mend it or remove it"}


def test_a_pipe_is_reported_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.md")
    assert walked(tmp_path) == ([], {"notes/pipe.md": "neither a file nor a folder; remove it"})


def test_folders_that_are_too_deep_are_reported(tmp_path):
    files(tmp_path, "/".join(["d"] * (DEPTH + 3)) + "/x.md", "/".join(["e"] * (DEPTH - 1)) + "/x.md")
    names, reasons = walked(tmp_path)
    assert len(names) == 1
    assert list(reasons) == ["notes/" + "/".join(["d"] * DEPTH)]


def test_what_cannot_be_read_is_reported(tmp_path, monkeypatch):
    files(tmp_path, "shut/x.md", "open/y.md", "open/z.md")
    listing = Path.iterdir
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "z.md")
    monkeypatch.setattr(Path, "iterdir", lambda path: denied() if path.name == "shut" else listing(path))

    def denied():
        raise PermissionError(13, "Permission denied")

    names, reasons = walked(tmp_path)
    assert names == ["notes/open/y.md"]
    assert reasons == {
        "notes/open/z.md": "the file cannot be read; check its permissions",
        "notes/shut": "the folder cannot be read: Permission denied; check its permissions",
    }


def test_a_name_that_is_not_utf8_can_be_reported(tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.md")).write_text("x", "utf-8")
    except OSError:
        pytest.skip("this file system has no such names")
    assert walked(tmp_path) == (["notes/?.md"], {})


@pytest.mark.parametrize("name", ["nothing", "file.md"])
def test_a_folder_that_is_none_is_an_error(tmp_path, name):
    files(tmp_path, "file.md")
    with pytest.raises(SourceError, match=name):
        list(walk(tmp_path / name, "notes"))
