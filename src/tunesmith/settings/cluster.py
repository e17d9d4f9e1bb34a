"""``[cluster]``: more machines than this one."""

from __future__ import annotations

from tunesmith.settings.section import Section


class ClusterSettings(Section):
    address: str = ""
    """A Ray cluster whose nodes read and tokenize rows: HOST:PORT as `ray start --head` tells it, or "local" for one on
    this machine that ends with the work. The same files come out. Needs `pip install "tunesmith[cluster]"`."""
