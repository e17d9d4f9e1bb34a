"""Numbers as the studio writes them, in either language, and reads them from an address."""

from __future__ import annotations

import time

from tunesmith.studio.words import Words


def whole_number(text: str) -> int:
    """A row or an offset; 0 for what is no such number."""
    return int(text) if text.isdecimal() and len(text) < 12 else 0


def moment(seconds: float) -> str:
    """A point in time as 2026-11-22 17:20, in this machine's own time; both languages read it."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def clock(seconds: float) -> str:
    """17:20:05, of something that happened today or in this run."""
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def duration(seconds: float, t: Words) -> str:
    """45 s, 4 min 10 s, 12 min, 1 h 02 min; 45 秒, 4 分 10 秒, 12 分钟, 1 小时 02 分."""
    whole = max(0, round(seconds))
    if whole < 60:
        return t("numbers.seconds", s=whole)
    if whole < 600:
        return t("numbers.minutes", m=whole // 60, s=whole % 60)
    minutes = round(whole / 60)
    if minutes < 60:
        return t("numbers.whole_minutes", m=minutes)
    return t("numbers.hours", h=minutes // 60, m=minutes % 60)
