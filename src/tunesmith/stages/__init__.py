"""The stages of a run, each done again only when what it depends on has changed."""

from tunesmith.stages.checking import Check, Sample, check
from tunesmith.stages.outcome import proofs, report, results
from tunesmith.stages.running import STAGES, open_run, prove, run
from tunesmith.stages.teaching import report as taught
from tunesmith.stages.teaching import with_taught
from tunesmith.stages.training import take_part

__all__ = [
    "STAGES", "Check", "Sample", "check", "open_run", "proofs", "prove", "report", "results", "run", "take_part",
    "taught", "with_taught",
]  # fmt: skip
