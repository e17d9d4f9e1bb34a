from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, below, fake_hub, serving
from hypothesis import given
from hypothesis import strategies as st

from tunesmith import files
from tunesmith.errors import SourceError, StorageError
from tunesmith.hubs import clients, download
from tunesmith.hubs.repository import RemoteFile, is_hub, repository, require, stays_inside
from tunesmith.sources.hub import fetched

ROW = b'{"prompt": "q", "completion": "a"}\n'


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[FakeHub]:
    yield from fake_hub(monkeypatch, tmp_path, "datasets")


both = pytest.mark.parametrize("name", ["hf:o/n", "modelscope:o/n"])


def place(name: str) -> Path:
    return repository(name, "data set", "a.jsonl").folder()


def listing() -> list[RemoteFile]:
    with clients.connect(repository("modelscope:o/n", "data set", "")) as opened:
        return opened.files()


def refusal(name: str) -> str:
    with pytest.raises(SourceError) as caught:
        fetched(name)
    message = str(caught.value)
    assert "\n" not in message
    assert name in message
    return message


def test_only_names_with_a_hub_before_the_colon_are_of_a_hub():
    assert is_hub("hf:o/n")
    assert is_hub("modelscope:o/n#数据.jsonl")
    assert not is_hub("rows.jsonl")
    assert not is_hub("C:/rows.jsonl")


@both
def test_the_files_of_rows_are_downloaded_once_and_then_without_network(hub, name, monkeypatch):
    hub.files = {"data/a.jsonl": ROW * 3, "b.csv": b"q,a\n", "README.md": b"card", ".gitattributes": b"x",
                 "load.py": b"evil", "rows.pkl": b"evil", "LICENSE.txt": b"l", "dataset_infos.json": b"{}"}  # fmt: skip
    folder = fetched(name)
    assert below(folder) == {"b.csv": b"q,a\n", "data/a.jsonl": ROW * 3}
    assert folder.is_relative_to(files.cache_folder() / "datasets" / name.partition(":")[0] / "o" / "n")
    asked = len(hub.asked)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:1")
    assert fetched(name) == folder
    assert len(hub.asked) == asked


@both
def test_of_files_that_name_splits_only_those_of_train_are_taken(hub, name):
    train = [
        "en/train-00000-of-00002.parquet",
        "en/train-00001-of-00002.parquet",
        "zh/train_sft.parquet",
        "训练集.json",
    ]
    others = [
        "en/test-00000-of-00001.parquet",
        "zh/validation.parquet",
        "dev.json",
        "train/test.json",
        "测试集.json",
        "x.csv",
    ]
    hub.files = dict.fromkeys([*train, *others], ROW)
    assert set(below(fetched(name))) == set(train)


def test_without_a_train_split_the_files_that_name_none_are_taken(hub):
    hub.files = {"latest.jsonl": ROW, "contest/devices.jsonl": ROW, "test.jsonl": ROW}
    assert set(below(fetched("hf:o/n"))) == {"latest.jsonl", "contest/devices.jsonl"}


def test_a_data_set_of_nothing_but_test_rows_is_refused_until_they_are_named(hub):
    hub.files = {"data/test.jsonl": ROW}
    assert '"hf:o/n#data/test.jsonl"' in refusal("hf:o/n")
    assert fetched("hf:o/n#data/test.jsonl").read_bytes() == ROW


@both
def test_prose_is_taken_where_there_are_no_rows_but_not_the_card(hub, name):
    hub.files = {
        "README.md": b"card",
        "LICENSE.md": b"l",
        "docs/测试.md": "文".encode(),
        "docs/README.md": b"d",
        "a.txt": b"t",
    }
    assert set(below(fetched(name))) == {"docs/测试.md", "docs/README.md", "a.txt"}


@both
def test_a_path_behind_the_hash_names_one_file_or_folder(hub, name):
    hub.files = {"数据/训练 1.jsonl": ROW, "数据/test.jsonl": ROW * 2, "other.jsonl": ROW * 3, "README.md": b"card"}
    assert fetched(f"{name}#数据/训练 1.jsonl").read_bytes() == ROW
    assert below(fetched(f"{name}#/数据/")) == {"test.jsonl": ROW * 2, "训练 1.jsonl": ROW}
    assert fetched(f"{name}#README.md").read_bytes() == b"card"
    assert "no gone.jsonl" in refusal(f"{name}#gone.jsonl")


@both
def test_a_revision_is_asked_for_and_kept_apart(hub, name):
    hub.files, hub.revisions = {"a.jsonl": ROW}, (*hub.revisions, "refs/convert/parquet")
    first = fetched(name)
    hub.files = {"a.jsonl": ROW * 2}
    second = fetched(f"{name}@refs/convert/parquet")
    assert (below(first), below(second)) == ({"a.jsonl": ROW}, {"a.jsonl": ROW * 2})
    assert "v9" in refusal(f"{name}@v9")


def test_a_long_list_comes_in_pages(hub):
    hub.files = {f"{i:04}.jsonl": b"{}\n" for i in range(450)}
    tree = listing()
    assert {file.path for file in tree} == set(hub.files)
    assert len(hub.asked) == 3


def test_a_hub_that_ignores_pages_is_not_asked_for_ever(hub):
    hub.files, hub.page_size = {f"{i:04}.jsonl": b"{}\n" for i in range(450)}, 0
    assert len(listing()) == 450
    assert len(hub.asked) == 2


@both
def test_progress_counts_every_byte_once(hub, name):
    hub.files = {"a.jsonl": ROW * 100_000, "b.jsonl": ROW}
    seen: list[tuple[int, int]] = []
    fetched(name, lambda done, total: seen.append((done, total)))
    size = len(ROW) * 100_001
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@both
def test_an_interrupted_download_is_not_taken_for_whole_and_is_taken_up(hub, name):
    hub.files = {"a.jsonl": ROW, "b.jsonl": ROW * 2}

    def stop(done: int, _: int) -> None:
        if done > len(ROW):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(name, stop)
    folder = place(name)
    assert below(folder) == {"a.jsonl": ROW}
    assert not (folder / download.WHOLE).exists()
    seen: list[tuple[int, int]] = []
    assert below(fetched(name, lambda done, total: seen.append((done, total)))) == hub.files
    assert sum("a.jsonl" in path for path in hub.downloads()) == 1
    assert seen[-1] == (len(ROW) * 3, len(ROW) * 3)


@both
def test_what_an_interrupted_download_of_other_files_left_is_taken_out(hub, name):
    folder = place(name)
    folder.mkdir(parents=True)
    (folder / "gone.jsonl").write_bytes(ROW)
    (folder / ".a.jsonl.x.tmp").write_bytes(b"half")
    hub.files = {"a.jsonl": ROW}
    fetched(name)
    assert sorted(path.name for path in folder.iterdir()) == [download.WHOLE, "a.jsonl"]


@both
def test_a_file_that_was_lost_or_cut_since_is_fetched_again(hub, name):
    hub.files = {"a.jsonl": ROW, "b.jsonl": ROW}
    folder = fetched(name)
    (folder / "a.jsonl").write_bytes(b"cut")
    (folder / "b.jsonl").unlink()
    assert below(fetched(name)) == hub.files


@both
@pytest.mark.parametrize("served", [ROW * 9, b"x" * len(ROW)])
def test_a_file_that_is_not_as_listed_is_refused_and_removed(hub, name, served):
    hub.files, hub.served = {"a.jsonl": ROW}, {"a.jsonl": served}
    with pytest.raises(SourceError, match=r"a\.jsonl did not arrive as the hub lists it"):
        fetched(name)
    assert not below(place(name))
    hub.served = {}
    assert below(fetched(name)) == hub.files


@both
def test_without_hashes_the_size_is_checked(hub, name):
    hub.hashes, hub.files, hub.served = False, {"a.jsonl": ROW}, {"a.jsonl": ROW * 9}
    with pytest.raises(SourceError, match="did not arrive"):
        fetched(name)
    hub.served = {}
    assert below(fetched(name)) == hub.files


@both
def test_a_connection_that_ends_early_leaves_nothing_that_looks_whole(hub, name):
    hub.files, hub.broken = {"a.jsonl": ROW * 1000}, True
    refusal(name)
    assert not below(place(name))
    hub.broken = False
    assert below(fetched(name)) == hub.files


@both
@pytest.mark.parametrize(
    "path", ["../a.jsonl", "/a.jsonl", "x/../../a.jsonl", "..\\a.jsonl", "C:\\a.jsonl", "a\0.jsonl", ""]
)
def test_a_list_with_a_path_outside_of_the_folder_is_refused(hub, name, path, tmp_path):
    hub.files = {"good.jsonl": ROW, path: ROW}
    assert "not to be trusted" in refusal(name)
    assert not list(tmp_path.rglob("*.jsonl"))


@given(st.text(st.sampled_from("a./\\:\0~C"), max_size=12))
def test_a_path_that_is_let_through_stays_inside(path):
    if stays_inside(path):
        assert (Path("/root/of/set") / path).resolve().is_relative_to("/root/of/set")


@both
def test_a_missing_or_private_data_set_asks_for_the_name_and_a_token(hub, name, monkeypatch):
    token = {"hf": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}[name.partition(":")[0]]
    assert token in refusal(name.replace("o/n", "o/none"))
    hub.files, hub.private = {"a.jsonl": ROW}, "secret-1"
    assert f"put a token in the environment as {token}" in refusal(name)
    monkeypatch.setenv(token, "secret-2")
    assert "secret" not in refusal(name)
    monkeypatch.setenv(token, "secret-1")
    assert below(fetched(name)) == hub.files


def test_a_gated_data_set_sends_to_its_terms(hub):
    hub.gated = True
    assert f"agree at {hub.url}/datasets/o/n" in refusal("hf:o/n")


def test_a_token_does_not_go_along_to_where_a_file_is_redirected(hub, monkeypatch):
    hub.files = {"a.jsonl": ROW}
    for token in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(token, "secret-1")
    store = FakeHub(files=hub.files)
    with serving(store, "localhost") as hub.elsewhere:
        assert below(fetched("hf:o/n")) == hub.files
        assert below(fetched("modelscope:o/n")) == hub.files
    assert len(store.downloads()) == 2
    assert "secret" not in str(store.headers)
    assert "secret" in str(hub.headers)


@both
def test_without_network_the_message_says_what_was_tried(hub, name, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", nowhere)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", nowhere)
        message = refusal(name)
    assert f"{nowhere} cannot be reached" in message
    assert "name its folder in data.sources" in message
    assert not files.cache_folder().exists()


def test_the_offline_mode_of_the_library_is_named(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in refusal("hf:o/n")


@both
def test_a_hub_in_trouble_is_named_with_its_status(hub, name):
    hub.status = 418
    assert "status 418; try again later" in refusal(name)


@both
@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"Data": [1]}', b"null", b"\xff"])
def test_an_answer_that_is_no_list_is_one_sentence(hub, name, answer):
    hub.status, hub.answer = 200, answer  # as from the login page of a hotel
    assert "not with a list of files" in refusal(name)


def test_nothing_is_printed(hub, capfd):
    hub.files = {"a.jsonl": ROW * 100_000}
    fetched("hf:o/n")
    assert capfd.readouterr() == ("", "")


def test_a_loading_script_is_not_run_and_its_parquet_branch_is_named(hub):
    hub.files = {"n.py": b"evil", "README.md": b"card", "n.zip": b"z"}
    assert '"hf:o/n@refs/convert/parquet"' in refusal("hf:o/n")
    assert "n.py" in refusal("modelscope:o/n")


@both
def test_a_data_set_with_nothing_to_read_says_what_it_holds(hub, name):
    hub.files = {"a.zip": b"z", "b.pkl": b"p", "c/d.JPG": b"j"}
    assert "it holds .jpg, .pkl, .zip" in refusal(name)
    assert "it holds .pkl" in refusal(f"{name}#b.pkl")


@both
def test_a_full_disk_is_said(hub, name, monkeypatch):
    hub.files = {"a.jsonl": ROW}
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(clients.os, "fsync", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(StorageError, match="disk is full"):
        fetched(name)


@pytest.mark.parametrize(
    "path", ["hf:", "hf:n", "hf:o/n/x", "hf:../n", "hf:o/..", "hf:o/n@", "hf:o/n@..", "hf:o/n#../x", "hf:o/n#a\\..\\b"]
)  # fmt: skip
def test_a_name_that_is_none_shows_how_to_write_one(path):
    assert '"hf:OWNER/NAME"' in refusal(path)


def test_two_processes_do_not_download_into_each_other(hub):
    hub.files = {f"{i}.jsonl": ROW * 1000 for i in range(5)}
    threads = [threading.Thread(target=fetched, args=["modelscope:o/n"]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert below(fetched("modelscope:o/n")) == hub.files
    assert len(hub.downloads()) == 5


def test_a_folder_that_was_deleted_is_downloaded_anew(hub):
    hub.files = {"a.jsonl": ROW}
    shutil.rmtree(fetched("hf:o/n"))
    hub.files = {"a.jsonl": ROW * 2}
    assert below(fetched("hf:o/n")) == hub.files


def test_an_unknown_size_is_not_checked(hub):
    require(RemoteFile("a"), 7, "x")
