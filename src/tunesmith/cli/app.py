"""The command ``tunesmith``. Each command is thin: it calls a room and shows what came back.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, validators
from rich.text import Text

from tunesmith.cli.console import standard_error, standard_output
from tunesmith.cli.flags import parse_settings, settings_help, settings_last
from tunesmith.cli.init import Like
from tunesmith.cli.where import Where

Target = Literal["gguf", "lora", "merged", "mlx", "mlx-lora", "ollama", "lmstudio"]
Tracker = Literal["tensorboard", "trackio", "wandb"]
Published = Literal["adapter", "gguf", "merged", "mlx"]
RecipeOrRun = Annotated[Path, Parameter(help="A recipe file, or the folder of a run.")]
Setting = Annotated[str, Parameter(allow_leading_hyphen=True, help="Settings, as in --train.epochs 3; listed below.")]
RunPath = Annotated[Path | None, Parameter(help="The run folder; runs/NAME for a recipe NAME.toml.")]
Fresh = Annotated[bool, Parameter(help="Do it again from the start, even if nothing changed.")]
Fit = Annotated[bool, Parameter(help="Where it does not fit into memory, take the settings that do.")]
Count = Annotated[int, Parameter(validator=validators.Number(gte=0))]
OneOrMore = Parameter(validator=validators.Number(gte=1))
Processes = Annotated[
    int, OneOrMore, Parameter(help="Train in so many processes of this machine, such as one for each card.")
]
HostFile = Annotated[Path | None, Parameter(help="Train on the hosts of this file: a name on each line, and slots=N.")]
Here = Annotated[str | None, Parameter(help="The host of that file that this machine is; the first without this.")]
Port = Parameter(validator=validators.Number(gte=0, lte=65535))
Json = Annotated[bool, Parameter(help="Print one JSON object instead of tables.")]
ALONE = Where()
STAGES = ("teach", "prepare", "train", "evaluate", "export")
WITH_SETTINGS = ("run", "teach", "prepare", "train", "evaluate", "check", "sweep")


def _usage(error: CycloptsError) -> Text:
    return Text(f"tunesmith: {error}", "red")


app = App(
    name="tunesmith",
    help="From your own examples to a model that runs on your own machine, proved at every step.",
    help_epilogue="Start with: tunesmith demo",
    help_format="plaintext",
    default_parameter=Parameter(negative="", show_default=lambda value: value or None),
    error_formatter=_usage,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


def call(tokens: Sequence[str]) -> None:
    """Run one command line. Raises what the rooms raise, `UsageError`, and SystemExit(2)."""
    takes_settings = bool(tokens) and tokens[0] in WITH_SETTINGS
    tokens = settings_last(tokens) if takes_settings else tokens
    app(tokens, console=standard_output(), error_console=standard_error())
    if takes_settings and ("--help" in tokens or "-h" in tokens):
        standard_output().print(settings_help())


@app.command(sort_key=1)
def demo(*, run: Path = Path("runs/demo"), json: Json = False) -> None:
    """The whole road on a bundled sample: train, measure, compare. A few minutes on two cores.

    Parameters
    ----------
    run
        The run folder; started again, the demo continues in it.
    """
    from tunesmith.cli import work

    work.demo(run, as_json=json)


@app.command(sort_key=1)
def init(name: Path, /, *, like: Like | None = None) -> None:
    """A recipe to start from, with a comment beside every setting.

    Parameters
    ----------
    name
        The folder to make.
    like
        What you have: documents of your own, conversations of a character, questions with their SQL, or a bigger
        model that teaches; without it, the choices are shown.
    """
    from tunesmith.cli import work

    work.init(name, like)


@app.command(sort_key=2)
def run(
    recipe: RecipeOrRun, /, *settings: Setting, run: RunPath = None, fresh: Fresh = False, fit: Fit = False,
    processes: Processes = 1, hosts: HostFile = None, here: Here = None, json: Json = False,
) -> None:  # fmt: skip
    """Every stage: teach where there is a teacher, prepare, train, evaluate, export. Started again, it continues."""
    _stages(STAGES, recipe, _with_fit(settings, fit), run, fresh, json, Where(processes, hosts, here))


@app.command(sort_key=3)
def teach(
    recipe: RecipeOrRun, /, *settings: Setting, run: RunPath = None, fresh: Fresh = False, dry_run: bool = False,
    json: Json = False,
) -> None:  # fmt: skip
    """One stage: have a bigger model write questions and answers. What was answered once is never asked again.

    Parameters
    ----------
    dry_run
        Show the first prompts, and about what all of them take and cost; ask nothing.
    """
    if not dry_run:
        _stages(("teach",), recipe, settings, run, fresh, json)
        return
    overrides = parse_settings(settings, "teach")
    from tunesmith.cli import teaching

    teaching.dry_run(recipe, run, overrides, as_json=json)


@app.command(sort_key=3)
def prepare(
    recipe: RecipeOrRun, /, *settings: Setting, run: RunPath = None, fresh: Fresh = False, json: Json = False
) -> None:
    """One stage: read, clean and divide the rows."""
    _stages(("prepare",), recipe, settings, run, fresh, json)


@app.command(sort_key=4)
def train(
    recipe: RecipeOrRun, /, *settings: Setting, run: RunPath = None, fresh: Fresh = False, fit: Fit = False,
    processes: Processes = 1, hosts: HostFile = None, here: Here = None, json: Json = False,
) -> None:  # fmt: skip
    """One stage: train the adapter on the prepared rows."""
    _stages(("train",), recipe, _with_fit(settings, fit), run, fresh, json, Where(processes, hosts, here))


@app.command(sort_key=5)
def evaluate(
    recipe: RecipeOrRun, /, *settings: Setting, run: RunPath = None, fresh: Fresh = False, json: Json = False
) -> None:
    """One stage: measure base and tuned model on the rows kept out."""
    _stages(("evaluate",), recipe, settings, run, fresh, json)


def _with_fit(settings: tuple[str, ...], fit: bool) -> tuple[str, ...]:
    return (*settings, "--train.fit", "take") if fit else settings


def _stages(
    stages: tuple[str, ...],
    recipe: Path,
    settings: tuple[str, ...],
    run: Path | None,
    fresh: bool,
    as_json: bool,
    where: Where = ALONE,
) -> None:
    overrides = parse_settings(settings, stages[0] if len(stages) == 1 else "run")
    from tunesmith.cli import work

    work.run_stages(recipe, run, overrides, stages=stages, fresh=fresh, as_json=as_json, where=where)


@app.command(sort_key=6)
def check(
    recipe: RecipeOrRun, /, *settings: Setting, rows: Count = 3, html: Path | None = None, json: Json = False
) -> None:
    """What the model would see, and what is wrong with the data. Trains nothing.

    Parameters
    ----------
    rows
        How many rows to show token by token.
    html
        Write everything that was found to this file, as a page to look at.
    """
    overrides = parse_settings(settings, "check")
    from tunesmith.cli import work

    work.check(recipe, overrides, rows=rows, html=html, as_json=json)


@app.command(sort_key=7)
def compare(run: Path, /, *questions: str, json: Json = False) -> None:
    """Base and tuned model side by side.

    Parameters
    ----------
    run
        The folder of a run.
    questions
        What to ask; without one, the first test questions are asked.
    """
    from tunesmith.cli import work

    work.compare(run, list(questions), as_json=json)


@app.command(sort_key=6)
def sweep(
    recipe: RecipeOrRun, /, *settings: Setting, run: RunPath = None, parallel: Annotated[int, OneOrMore] = 1,
    json: Json = False,
) -> None:  # fmt: skip
    """Several values of some settings: a run for every combination, and one comparison. Started again, it continues.

    Values have commas between them, as in --train.lora.rank 4,8,16 --train.layers 4,8,all. A setting with one value
    applies to all runs. The runs are below runs/NAME-sweep, or --run.

    Parameters
    ----------
    parallel
        So many runs at once; one uses all cores of most machines.
    """
    from tunesmith.cli import sweep as sweeping

    sweeping.sweep(recipe, run, settings, parallel, as_json=json)


@app.command(name="lm-eval", sort_key=7)
def lm_eval(
    run: Path, task: str, /, *tasks: str, limit: Annotated[int | None, OneOrMore] = None, chat: bool = False,
    json: Json = False,
) -> None:  # fmt: skip
    """Measure base and tuned model with EleutherAI's lm-eval, where it is installed.

    Parameters
    ----------
    run
        The folder of a run.
    task
        A task of lm-eval, such as arc_easy, or a .yaml file that describes one.
    tasks
        More of them.
    limit
        Only so many questions of each task: to try it out.
    chat
        Ask through the model's chat template, as it was trained; without it plain text, as lm-eval does.
    """
    from tunesmith.cli import harness

    harness.lm_eval(run, (task, *tasks), limit=limit, chat=chat, as_json=json)


@app.command(sort_key=8)
def export(
    recipe: RecipeOrRun,
    name: str | None = None,
    /,
    *,
    to: Target = "gguf",
    quant: str | None = None,
    json: Json = False,
) -> None:
    """The trained model as files that run elsewhere, each GGUF proved to be the trained model.

    Parameters
    ----------
    name
        The model's name in Ollama: --to ollama NAME.
    to
        A GGUF file, the adapter alone as GGUF (lora) or for mlx-lm (mlx-lora), a Hugging Face folder (merged), a
        4-bit MLX folder (mlx), or a GGUF handed to Ollama or LM Studio.
    quant
        How the GGUF's weights are stored: f16, bf16, q8_0, q6_k, q5_k_m, or q4_k_m without this.
    """
    from tunesmith.cli import hand_over

    hand_over.export(recipe, name, to, quant, as_json=json)


@app.command(sort_key=9)
def prove(run: Path, /, *ggufs: Path, json: Json = False) -> None:
    """Compare GGUF files with the trained model: same tokens asked, same numbers answered, same ends.

    Parameters
    ----------
    run
        The folder of a run.
    ggufs
        The files; without one, those that were exported.
    """
    from tunesmith.cli import hand_over

    hand_over.prove(run, list(ggufs), as_json=json)


@app.command(sort_key=10)
def publish(run: Path, /, *, to: str, what: Published = "adapter", public: bool = False, json: Json = False) -> None:
    """Send a trained model to a hub, with a card that gives its honest scores. Private unless told otherwise.

    Parameters
    ----------
    run
        The folder of a run.
    to
        Where: hf:OWNER/NAME or modelscope:OWNER/NAME. The token comes from the environment.
    what
        The adapter, or what was exported before: the GGUF files, the merged folder, the MLX folder.
    public
        Let everybody see it.
    """
    from tunesmith.cli import hand_over

    hand_over.publish(run, to, what, public=public, as_json=json)


@app.command(sort_key=11)
def chat(model: str, /) -> None:
    """Talk to a model in this terminal, or pipe questions in, one a line. /help there says what else can be done.

    Parameters
    ----------
    model
        The folder of a run (its tuned model), or any model that a recipe can name.
    """
    from tunesmith.cli.chat import open_and_chat

    open_and_chat(model)


@app.command(sort_key=8)
def track(run: Path, /, *, to: Tracker = "tensorboard", json: Json = False) -> None:
    """Send what a run has measured so far to a tracker: losses, rates, scores. `train.trackers` does it while it runs.

    Parameters
    ----------
    run
        The folder of a run.
    to
        TensorBoard's files in the run folder, trackio, or Weights & Biases; the last two where they are installed.
    """
    from tunesmith.cli import track as tracking

    tracking.track(run, to, as_json=json)


@app.command(sort_key=11)
def serve(
    model: str, /, *, host: str = "127.0.0.1", port: Annotated[int, Port] = 8080, key_from: str | None = None,
    origin: tuple[str, ...] = (), at_once: Annotated[int | None, OneOrMore] = None,
    context: Annotated[int | None, OneOrMore] = None,
) -> None:  # fmt: skip
    """Answer other programs as OpenAI's API does: /v1/chat/completions, /v1/completions, /v1/models.

    Parameters
    ----------
    model
        The folder of a run (served as its name and as base), a .gguf file (by llama.cpp), or any other model.
    host
        The address to listen on. Any but this machine's own needs a key.
    port
        The port; 0 takes a free one.
    key_from
        The environment variable that holds the key which requests must bring; TUNESMITH_SERVE_KEY without this.
    origin
        A web page's origin that may ask from a browser, such as http://localhost:3000; may be given several times.
    at_once
        Answers that are written together; more wait. 64 without this, 8 for a .gguf file.
    context
        Tokens of a prompt and its answer, at most; the model's own, but no more than 4096, without this.
    """
    from tunesmith.cli import serve as serving

    serving.serve(
        model, host=host, port=port, key_from=key_from, origins=origin, at_once=at_once, context=context
    )  # fmt: skip


@app.command(sort_key=12)
def models(name: str | None = None, /, *, verify: bool = False, json: Json = False) -> None:
    """The models that are here.

    Parameters
    ----------
    name
        Only this model.
    verify
        Compare the import of a GGUF with what llama.cpp makes of the same file.
    """
    from tunesmith.cli import shelf

    shelf.models(name, verify=verify, as_json=json)


@app.command(sort_key=13)
def studio(folder: Path = Path(), /, *, port: int = 8765, no_browser: bool = False) -> None:
    """Web pages over the runs of a folder: watch them learn, look at their rows, results and files.

    Parameters
    ----------
    folder
        Where your recipes and runs/ are.
    port
        Where the pages are, on this machine only.
    no_browser
        Open none.
    """
    from tunesmith.cli.studio import studio as show

    show(folder, port, browser=not no_browser)
