"""`tunesmith` as the studio starts it, but for what takes most of a tiny run: all of the general questions, and the
process that tries one step."""

from tunesmith.evaluation.general import General
from tunesmith.training import fit


def examine(*_):
    yield from ()


if __name__ == "__main__":
    every = General.questions
    General.questions = lambda self, rows: every(self, rows)[::60]
    fit.examine = examine
    from tunesmith.cli import main

    main()
