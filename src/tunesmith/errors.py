"""What can go wrong, as one tree.

    TunesmithError              a person can mend it: one sentence, exit 1
    ├── RecipeError             a setting is unknown, missing or out of range
    ├── SourceError             a file of rows is missing, empty or unreadable
    ├── ModelError              a model cannot be found, read or trusted
    ├── TeacherError            a teacher cannot be reached, paid or used
    ├── EngineError             this machine cannot run what was asked
    │   ├── OutOfMemory         … because it does not fit
    │   └── RanksLost           … because a process that trains with this one has ended
    ├── TrainingError           training cannot go on (NaN, divergence, other settings)
    ├── TrackerError            a tracker is not installed or does not answer
    ├── ClusterError            a cluster does not answer, or its nodes are not alike
    ├── RunError                a run folder is missing, locked or of another recipe
    ├── ServingError            an address cannot be served on, or not safely
    └── StorageError            the disk is full or cannot be written
    CheckFailed                 a check or proof did not hold: exit 3

Every message says what, where, and what to do about it. The library raises these and translates
foreign errors at one edge per room; only the command line and the pages print them.
"""

from __future__ import annotations


class TunesmithError(Exception):
    """Something the person can mend. ``str(error)`` is the one sentence to show."""


class RecipeError(TunesmithError):
    """A setting is unknown, missing or out of range."""


class SourceError(TunesmithError):
    """A file of rows is missing, empty or unreadable."""


class ModelError(TunesmithError):
    """A model cannot be found, read or trusted."""


class TeacherError(TunesmithError):
    """A teacher cannot be reached, paid or used."""


class EngineError(TunesmithError):
    """This machine cannot run what was asked."""


class OutOfMemory(EngineError):
    """The work does not fit into this machine's memory."""


class RanksLost(EngineError):
    """Another process of the same training has ended."""


class TrainingError(TunesmithError):
    """Training cannot go on."""


class TrackerError(TunesmithError):
    """A tracker is not installed, or does not answer."""


class ClusterError(TunesmithError):
    """A cluster does not answer, or its nodes are not alike."""


class RunError(TunesmithError):
    """A run folder is missing, in use, or belongs to another recipe."""


class ServingError(TunesmithError):
    """An address cannot be served on, or not safely."""


class StorageError(TunesmithError):
    """The disk is full or cannot be written."""


class CheckFailed(TunesmithError):
    """A check or proof ran, and did not hold."""


def first_line(error: Exception) -> str:
    """What a library said, as far as it fits into a sentence of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
