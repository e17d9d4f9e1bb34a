"""tunesmith: from your own documents or examples to a model on your own machine, proved at every step.

From Python, the same as from the command line::

    from pathlib import Path
    from tunesmith import stages

    folder, recipe = stages.open_run(Path("recipe.toml"), overrides={"train.epochs": 2})
    for progress in stages.run(folder, recipe):
        print(progress.event, progress.step, progress.loss)
"""

__version__ = "0.1.0"
