from __future__ import annotations

import pytest

from tunesmith.errors import RecipeError
from tunesmith.settings import Recipe, every_field, make_recipe, parse_value, read_recipe

ROWS = {"data": {"sources": ["rows.jsonl"]}}


def test_only_sources_is_required():
    assert make_recipe(ROWS).train.epochs == Recipe().train.epochs
    with pytest.raises(RecipeError, match=r"data\.sources is missing"):
        make_recipe({})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train": {"epoch": 3}}, "train.epoch is not a setting; did you mean train.epochs?"),
        ({"trian": {}}, "trian is not a setting; did you mean train?"),
        ({"train": {"lora": {"rnk": 2}}}, "did you mean train.lora.rank?"),
        ({"learning_rate": 1}, "did you mean train.learning_rate?"),
        ({"train": {"epochs": "ten"}}, 'train.epochs is a whole number, and "ten" is none'),
        ({"train": {"learning_rate": -1}}, "train.learning_rate: input should be greater than 0"),
        ({"train": {"schedule": "cosin"}}, "train.schedule: input should be 'cosine', 'linear' or 'constant'"),
        ({"data": {"sources": ["a"], "split": {"valid": 2}}}, "data.split.valid: input should be less than 1"),
        ({"evaluate": {"tasks": ["sqll"]}}, "there is no kind 'sqll'; there are sql, loss, "),
        ({"evaluate": {"tasks": "loss"}}, 'evaluate.tasks: write it in brackets, ["loss"]'),
        (
            {"data": {"sources": [{"path": "a", "colums": {}}]}},
            "data.sources.0.colums is not a setting; did you mean columns?",
        ),
        (
            {"data": {"sources": [{"path": "a", "zzz": 1}]}},
            "data.sources.0.zzz is not a setting; there are path, kind, columns",
        ),
        ({"data": {"sources": [{"path": "a", "kind": "blogindex"}]}}, "did you mean 'blog-index'?"),
        ({"data": {"sources": [{"path": "a", "columns": {"questoin": "F"}}]}}, "did you mean 'question'?"),
        ({"data": {"sources": ["a"], "split": {"test": [{"path": "a", "colums": {}}]}}}, "did you mean columns?"),
        ({"data": {"sources": ["a"], "split": {"valid": 0.6, "test": 0.5}}}, "leave no rows to train on"),
        ({"evaluate": {"tasks": ["sql"]}}, "needs database"),
        ({"evaluate": {"tasks": ["jsn"]}}, "tasks.0: there is no kind 'jsn'; there are json, "),
        ({"evaluate": {"tasks": [{"file": "a.py"}]}}, 'tasks.0: write in it which it is, kind = "…"'),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(values, says):
    with pytest.raises(RecipeError) as caught:
        make_recipe({**ROWS, **values})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"train.epoch": 3}, "--train.epoch is not a setting; did you mean --train.epochs?"),
        ({"trian.epochs": 3}, "--trian.epochs is not a setting; did you mean --train.epochs?"),
        ({"train.epochs": 0}, "--train.epochs: input should be greater"),
        ({"data.sources": [{"path": "a", "colums": {}}]}, "--data.sources: data.sources.0.colums is not a setting"),
        ({"data.split.valid": 0.95}, "recipe.toml with --data.split.valid: data.split: valid and test together leave"),
    ],
)
def test_a_wrong_flag_is_named_and_not_the_file(flags, says):
    with pytest.raises(RecipeError) as caught:
        make_recipe(ROWS, flags, where="recipe.toml")
    assert str(caught.value).startswith(says)


def test_a_fault_of_the_file_names_the_file_whatever_the_flags():
    with pytest.raises(RecipeError, match=r"^recipe\.toml: train\.epoch is not a setting"):
        make_recipe({**ROWS, "train": {"epoch": 3}}, {"train.batch": 2}, where="recipe.toml")


@pytest.mark.parametrize("one", ["a.jsonl", {"path": "a.jsonl"}])
def test_one_source_needs_no_brackets(one):
    data = make_recipe({"data": {"sources": one, "split": {"test": one}}}).data
    assert data.sources == data.split.test == make_recipe({"data": {"sources": ["a.jsonl"]}}).data.sources
    assert make_recipe({"data": {"sources": one, "split": {"test": "0.2"}}}).data.split.test == 0.2


def test_flags_override_the_file_by_the_same_names(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('[data]\nsources = ["a"]\n[train]\nepochs = 2\n')
    recipe = read_recipe(path, {"train.epochs": 5, "train.lora.rank": 3, "data.split.test": 0.3})
    assert (recipe.train.epochs, recipe.train.lora.rank, recipe.data.split.test) == (5, 3, 0.3)


def test_a_data_folder_in_the_recipe_starts_there_and_one_in_a_flag_starts_here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = tmp_path / "there" / "recipe.toml"
    path.parent.mkdir()
    path.write_text('data = {sources = ["rows.jsonl"], folder = "rows"}')
    assert read_recipe(path).data.folder == str(tmp_path / "there" / "rows")
    assert read_recipe(path, {"data.folder": "rows"}).data.folder == str(tmp_path / "here" / "rows")


def test_a_recipe_that_is_missing_or_no_toml_says_so(tmp_path):
    with pytest.raises(RecipeError, match="there is no recipe"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="is a folder"):
        read_recipe(tmp_path)
    (tmp_path / "bad.toml").write_text("[data\n")
    with pytest.raises(RecipeError, match="is not TOML"):
        read_recipe(tmp_path / "bad.toml")


def test_values_on_the_command_line_are_read_as_toml_or_as_text():
    assert [parse_value(v) for v in ("3", "1e-4", "true", '["a"]', "all", "0.1")] == [3, 1e-4, True, ["a"], "all", 0.1]


def test_every_setting_has_a_help_text():
    assert [name for name, (_, text) in every_field().items() if not text] == []


def test_every_help_text_is_one_line_that_a_row_of_a_table_can_hold():
    assert [name for name, (_, text) in every_field().items() if "\n" in text or "|" in text] == []
