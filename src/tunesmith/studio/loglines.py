"""What happened, as lines of the log in either language."""

from __future__ import annotations

from typing import Any

from tunesmith.machine import size
from tunesmith.pages.text import harmless
from tunesmith.studio.numbers import clock, duration
from tunesmith.studio.words import Words


def log_line(event: dict[str, Any], t: Words) -> dict[str, str]:
    """{"time", "kind", "text"} of one event; the text is empty where there is nothing to say."""
    try:
        time, text = clock(event.get("time") or 0.0), _said(event, t)
    except (ValueError, TypeError):
        time, text = "", ""  # a damaged line
    return {"time": time if event.get("time") else "", "kind": str(event.get("event", "")), "text": harmless(text)}


def stage_name(stage: str, t: Words) -> str:
    """What a stage is called; one of another version as it calls itself."""
    return t.texts.get(f"run.stage_{stage}", stage)


def _said(event: dict[str, Any], t: Words) -> str:
    kind, message, stage = event.get("event"), str(event.get("message", "")), str(event.get("stage", ""))
    loss, name = event.get("loss"), stage_name(stage, t)
    if kind == "stage":
        return t("run.log_skipped", stage=name, message=message) if message else t("run.log_stage", stage=name)
    if kind == "end":
        return t("run.log_end", stage=name) + (f" · {message}" if message else "")
    if kind == "start":
        return message or t("run.log_start", step=event.get("step", 0), steps=event.get("steps", 0))
    if kind == "validation" and loss is not None:
        best = t("run.log_best") if event.get("best") else ""
        return t("run.log_validation", step=event.get("step", 0), loss=loss) + best
    if kind == "checkpoint":
        return t("run.log_checkpoint", name=message)
    if kind == "fits":
        text = t("run.log_fits", memory=size(event.get("memory") or 0), total=size(event.get("total") or 0))
        left = event.get("seconds_left")
        return text + (t("run.log_takes", time=duration(left, t)) if left else "")
    if kind == "measured":
        return _measured(event, message)
    return message


def _measured(event: dict[str, Any], message: str) -> str:
    parts = [str(event.get("model") or "")]
    if event.get("loss") is not None:
        parts.append(f"loss {event['loss']:.3f}")
    if event.get("score") is not None:
        parts.append(f"{message or 'score'} {100 * event['score']:.1f} %")
    elif message:
        parts.append(message)
    return " · ".join(part for part in parts if part)
