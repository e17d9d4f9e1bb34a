"""Records of speed.py as one SVG, written by hand: bars by peer, curves of growth. And both put into docs/."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path

import growth
import tables

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- benchmarks/speed.py writes this -->", "<!-- and no further -->"
BEFORE = "## The demo"
"""The heading that the section is put before when it is not there yet."""

WIDTH, LEFT, RIGHT, BAR, GAP = 840, 190, 90, 14, 4
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .title { font-weight: 600; font-size: 14px } .small { font-size: 11px; fill: #57606a }
  .c0 { fill: #0969da } .c1 { fill: #bc4c00 } .c2 { fill: #8250df } .c3 { fill: #4d8b31 }
  .time { stroke: #0969da; fill: none; stroke-width: 2 } .memory { stroke: #bc4c00; fill: none; stroke-width: 2 }
  .grid { stroke: #8c959f; stroke-opacity: .35 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #9da7b1 }
    .c0 { fill: #58a6ff } .c1 { fill: #f0883e } .c2 { fill: #bc8cff } .c3 { fill: #7ee787 }
    .time { stroke: #58a6ff } .memory { stroke: #f0883e }
  }"""


def write(text: str, records: list[dict]) -> None:
    """The plot, and the tables between the two marks of docs/speed.md; its other prose stays as it is."""
    page = DOCS / "speed.md"
    before = page.read_text()
    section = f"{BEGIN}\n![Speed and memory by peer, and how they grow](speed.svg)\n\n{text}\n{END}"
    if BEGIN in before:
        head, rest = before.split(BEGIN, 1)
        after = head + section + rest.split(END, 1)[1]
    else:
        head, rest = before.split(BEFORE, 1)
        after = f"{head}## All peers, and how time and memory grow\n\n{section}\n\n{BEFORE}{rest}"
    (DOCS / "speed.svg").write_text(svg(records))
    page.write_text(after)


def svg(records: list[dict]) -> str:
    speed, growing = (tables.latest(records, kind)[0] for kind in ("speed", "growth"))
    body, y = [], 10
    for title, value, unit in (("tokens a second, all in", tables.all_in, ""), ("peak memory", memory, " GB")):
        for engine, where in (("torch", ""), ("mlx", ", MLX on a CPU in fp32")):
            groups = medians(speed, engine, value)
            if groups:
                drawn, y = bars(f"{title}{where}", groups, unit, y)
                body += drawn
    points = [r for r in growing if r["kind"] == "growth" and "failed" not in r]
    if points:
        drawn, y = curves(points, y)
        body += drawn
    lines = "\n".join(f"  {line}" for line in body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">\n'
        f"  <title>Speed and memory by peer, and how they grow</title>\n  <style>{STYLE}\n  </style>\n{lines}\n</svg>\n"
    )


def memory(record: dict) -> float:
    return record["memory"] / 1e9


def medians(records: list[dict], engine: str, value) -> dict[int, dict[str, float | None]]:
    """By layers and name; None where a program failed."""
    found: dict[int, dict[str, list[float]]] = {}
    for r in records:
        if r["kind"] == "speed" and r["engine"] == engine:
            values = found.setdefault(r["layers"], {}).setdefault(r["name"], [])
            values += [] if "failed" in r else [value(r)]
    return {k: {n: statistics.median(v) if v else None for n, v in names.items()} for k, names in found.items()}


def bars(title: str, groups: dict[int, dict[str, float | None]], unit: str, y: int) -> tuple[list[str], int]:
    """Horizontal bars, a group for each number of layers; and where they end."""
    most = max((v for names in groups.values() for v in names.values() if v), default=1.0)
    out, y = [label(10, y + 14, title, "title")], y + 26
    for layers, names in groups.items():
        out.append(label(10, y + 11, f"top {layers}", "small"))
        for colour, (name, value) in enumerate(names.items()):
            out.append(label(LEFT - 8, y + 11, name, anchor="end"))
            if value is None:
                out.append(label(LEFT, y + 11, "failed", "small"))
            else:
                width = max(1.0, (WIDTH - LEFT - RIGHT) * value / most)
                out.append(f'<rect class="c{colour}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>')
                out.append(label(LEFT + width + 6, y + 11, number(value) + unit))
            y += BAR + GAP
        y += 8
    return out, y + 12


def curves(points: list[dict], y: int) -> tuple[list[str], int]:
    """A panel for each thing that grows: seconds of an epoch, and peak memory, each from zero up."""
    height, width, between = 150, 200, 75
    out = [label(10, y + 14, "how an epoch's time and peak memory grow", "title")]
    out += [line_key(10, y + 30, "time", "seconds an epoch"), line_key(180, y + 30, "memory", "peak memory, GB")]
    y += 56
    for panel, what in enumerate(growth.GROWING):
        of = [r for r in points if r["grows"] == what]
        x0 = 45 + panel * (width + between)
        out += [f'<path class="grid" d="M{x0} {y + i * height / 2}h{width}"/>' for i in range(3)]
        if not of:
            continue
        last = max(r["value"] for r in of)
        for key, side, anchor in (("epoch_seconds", x0 - 5, "end"), ("memory", x0 + width + 5, "start")):
            values = [r[key] / (1e9 if key == "memory" else 1) for r in of]
            top = max(values)
            places = [
                (x0 + width * r["value"] / last, y + height * (1 - v / top)) for r, v in zip(of, values, strict=True)
            ]
            kind = "memory" if key == "memory" else "time"
            path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
            out += [f'<path class="{kind}" d="{path}"/>']
            out += [f'<circle class="c{int(kind == "memory")}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in places]
            out += [label(side, y + 4, number(top), "small", anchor), label(side, y + height + 4, "0", "small", anchor)]
        out += ticks([r["value"] for r in of], x0, width, last, y + height + 16)
        out.append(label(x0 + width / 2, y + height + 34, growth.TITLES[what], anchor="middle"))
    return out, y + height + 48


def ticks(values: Sequence[int], x0: int, width: int, last: int, y: int) -> list[str]:
    return [label(x0 + width * value / last, y, str(value), "small", "middle") for value in values]


def line_key(x: int, y: int, kind: str, text: str) -> str:
    return f'<path class="{kind}" d="M{x} {y - 4}h18"/>' + label(x + 24, y, text, "small")


def label(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
