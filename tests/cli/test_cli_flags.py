import io

import pytest

from tunesmith.cli.edge import UsageError
from tunesmith.cli.flags import parse_settings, settings_help, settings_last, show_value
from tunesmith.settings import LossTask, every_field, make_recipe


def test_both_ways_to_write_a_setting_mean_the_same():
    assert parse_settings(["--train.epochs", "3"]) == parse_settings(["--train.epochs=3"]) == {"train.epochs": 3}


def test_values_are_read_as_toml_and_else_as_text():
    tokens = ["--train.learning_rate", "1e-4", "--evaluate.checkpoints=false", "--train.layers", "all"]
    tokens += [
        "--data.split.test",
        '["a.jsonl"]',
        "--data.system",
        "",
        "--data.seed",
        "-1",
        "--model.name=a=b",
    ]
    assert parse_settings(tokens) == {
        "train.learning_rate": 1e-4,
        "evaluate.checkpoints": False,
        "train.layers": "all",
        "data.split.test": ["a.jsonl"],
        "data.system": "",
        "data.seed": -1,
        "model.name": "a=b",
    }


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["--train.epochs"], "--train.epochs needs a value, as in --train.epochs 3"),
        (["--train.epochs", "--train.batch", "4"], "--train.epochs needs a value"),
        (["word"], "'word' stands alone"),
        (["--epochs", "3"], "did you mean --train.epochs?"),
        (["--learning-rate", "3"], "did you mean --train.learning_rate?"),
        (["--jsn"], "did you mean --json?"),
        (["-x"], "there is no flag -x"),
    ],
)
def test_a_wrong_flag_is_named_with_the_right_one(tokens, said):
    with pytest.raises(UsageError) as raised:
        parse_settings(tokens)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("command", "flag", "others"),
    [("check", "--run", "--rows, --html, --json"), ("train", "--html=a.html", "--run, --fresh, --json")],
)
def test_a_flag_of_another_command_is_said_to_be_that(command, flag, others):
    with pytest.raises(UsageError, match=f"the command {command} takes no {flag.split('=')[0]}; it takes {others}"):
        parse_settings([flag, "DIR"], command)


def test_settings_may_stand_before_the_recipe():
    tokens = ["run", "--train.epochs", "3", "recipe.toml", "--json", "--data.seed=1"]
    assert settings_last(tokens) == ["run", "recipe.toml", "--json", "--train.epochs", "3", "--data.seed=1"]


def test_nothing_after_two_dashes_is_moved():
    assert settings_last(["run", "--data.seed=1", "--", "--odd.name"]) == [
        "run",
        "--",
        "--odd.name",
        "--data.seed=1",
    ]


def test_defaults_are_shown_as_a_recipe_writes_them():
    assert [show_value(v) for v in (None, "", (), True, 3, ("a", "b"), (LossTask(),))] == [
        "", "", "", "true", "3", "a, b", "loss",
    ]  # fmt: skip


def test_every_setting_that_help_shows_can_be_set():
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(settings_help())
    shown = console.export_text()
    for name, (default, _) in every_field().items():
        assert f"--{name} " in shown
        if isinstance(default, int | float | str) and show_value(default):
            overrides = parse_settings([f"--{name}", show_value(default)])
            make_recipe({"data": {"sources": ["rows.jsonl"]}}, overrides)
