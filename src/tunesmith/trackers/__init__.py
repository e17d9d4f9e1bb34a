"""What a run measures, in the trackers people already use; all of it from progress.jsonl."""

from tunesmith.trackers.feed import Feed, track

__all__ = ["Feed", "track"]
