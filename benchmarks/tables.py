"""Records of speed.py as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import growth


def everything(records: list[dict]) -> str:
    """What was measured last of each kind, in one text; records are in the order in which they were appended."""
    parts = []
    for kind, show in (("speed", beside_peers), ("growth", grown)):
        of_run, run = latest(records, kind)
        if of_run:
            parts.append(show(run, of_run))
    return "\n\n".join(parts)


def latest(records: list[dict], kind: str) -> tuple[list[dict], dict]:
    """The records of the last run that has any of ``kind``, and what the run was told; empty when there is none."""
    runs: list[list[dict]] = []
    for record in records:
        if record["kind"] == "run":
            runs.append([])
        runs[-1].append(record)
    found = [run for run in runs if any(r["kind"] == kind for r in run)]
    return (found[-1], found[-1][0]) if found else ([], {})


QUIET = 0.2
"""Cores that other work may take without the comparison being called unfair."""

# -- beside peers ------------------------------------------------------------------------------------


def all_in(record: dict) -> float:
    """Tokens a second with the pass through the frozen layers in it."""
    return tokens(record) / (seconds(record) + record.get("prefix_seconds", 0.0))


def later(record: dict) -> float:
    """Tokens a second in the last third of the steps, for which nothing is computed ahead any more."""
    last = record["steps"][-max(1, len(record["steps"]) // 3) :]
    return sum(n for _, n in last) / sum(s for s, _ in last)


def tokens(record: dict) -> int:
    return sum(n for _, n in record["steps"])


def seconds(record: dict) -> float:
    return sum(s for s, _ in record["steps"])


def beside_peers(run: dict, records: list[dict]) -> str:
    head = [
        "| layers | | tokens/s, all in | tokens/s, last third of the steps | peak memory | held-out loss "
        "| of the multiply rate | other work, cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    measured = [r for r in records if r["kind"] == "speed"]
    lines = [line for k in dict.fromkeys(r["layers"] for r in measured) for line in of_layers(k, measured, records)]
    return "\n".join([told(run, records) + disturbed(measured), "", *head, *lines])


def disturbed(measured: list[dict]) -> str:
    """A warning: threads that share every operation, as the peers' do, wait for the slowest core each time."""
    most = max((r.get("other_cores") or 0.0 for r in measured), default=0.0)
    if most < QUIET:
        return ""
    return f" **Not a fair comparison: other work took up to {most:.1f} cores, which does not slow all alike.**"


def of_layers(layers: int, measured: list[dict], records: list[dict]) -> list[str]:
    """A line for each program, and one for each peer with tunesmith's as multiples of its, round by round."""
    rates = {r["round"]: r["rates"] for r in records if r["kind"] == "multiply" and r["layers"] == layers}
    by_name: dict[str, list[dict]] = {}
    for record in measured:
        if record["layers"] == layers:
            by_name.setdefault(record["name"], []).append(record)
    lines = []
    own: list[dict] = []
    for name, runs in by_name.items():
        own = runs if name.startswith("tunesmith") else own
        good = [r for r in runs if "failed" not in r]
        if good:
            lines.append(f"| {layers} | {name} | " + " | ".join(cells(good, rates)) + " |")
        broken = [r["failed"] for r in runs if "failed" in r]
        if broken:
            lines.append(f"| {layers} | {name} | failed, {len(broken)} of {len(runs)}: {plain(broken[0])} | | | | | |")
        if own is not runs and good:
            lines += ratio(name, own, runs)
    return lines


def cells(runs: list[dict], rates: dict[int, dict]) -> list[str]:
    median, memory = statistics.median, max(r["memory"] for r in runs) / 1e9
    loads = [r["other_cores"] for r in runs if r["other_cores"] is not None]
    shares = [share(r, rates[r["round"]]) for r in runs if "operations" in r]
    return [
        spread(runs, all_in), spread(runs, later), f"{memory:.2f} GB", f"{runs[0]['valid']:.4f}",
        f"{median(shares):.0%}" if shares else "", f"{median(loads):.1f}" if loads else "",
    ]  # fmt: skip


def share(record: dict, rates: dict) -> float:
    """How much of the machine's multiply rate the training's own arithmetic came to."""
    fastest = max(rates[record["engine"]].values()) * 1e9
    operations = record["operations"] + record["prefix_operations"]
    return operations / (seconds(record) + record["prefix_seconds"]) / fastest


def spread(runs: list[dict], value: Callable[[dict], float]) -> str:
    values = [value(r) for r in runs]
    around = f" ({min(values):,.0f} to {max(values):,.0f})" if len(values) > 1 else ""
    return f"{statistics.median(values):,.0f}{around}"


def ratio(name: str, own: list[dict], runs: list[dict]) -> list[str]:
    pairs = [(a, b) for a, b in zip(own, runs, strict=True) if "failed" not in a and "failed" not in b]
    if not pairs:
        return []

    def against(value: Callable[[dict], float]) -> list[float]:
        return [value(a) / value(b) for a, b in pairs]

    fast = [
        f"**{statistics.median(r):.1f}** ({', '.join(f'{x:.1f}' for x in r)})" for r in map(against, (all_in, later))
    ]
    memory, loss = (statistics.median(against(lambda r, k=key: r[k])) for key in ("memory", "valid"))
    return [f"| | tunesmith / {name} | {fast[0]} | {fast[1]} | {memory:.2f} | {loss:.3f} | | |"]


def told(run: dict, records: list[dict]) -> str:
    """What the numbers were measured with, and this machine's multiply rate."""
    rates: dict[str, list[float]] = {}
    for record in records:
        for engine, ways in record.get("rates", {}).items():
            for way, rate in ways.items():
                rates.setdefault(f"{engine}, {MEANING[way]}", []).append(rate)
    products = "; ".join(f"{way}: {statistics.median(values):,.0f}" for way, values in rates.items())
    peers = [r for r in records if r["kind"] == "versions" and not r["name"].startswith("tunesmith")]
    packages = "; ".join(f"{r['name']}: {', '.join(f'{k} {v}' for k, v in r['versions'].items())}" for r in peers)
    return (
        f"{run['began']}, {run['cores']} cores ({run['machine']}). Starter model, {run['rows']} rows of WikiSQL "
        f"({run['mlx_rows']} for MLX, in fp32), {run['epochs']} epochs, batch {run['batch']}, LoRA rank {run['rank']} "
        f"on {', '.join(run['modules'])}, {run['precision']}; median of {run['rounds']} round(s), lowest and highest "
        f"behind it. Matrix products, GFLOP/s: {products}. {packages}."
    )


MEANING = {"shared": "all cores on each product", "apart": "a product on each core"}


def grown(run: dict, records: list[dict]) -> str:
    points = [r for r in records if r["kind"] == "growth"]
    return (
        f"{run['began']}: {growth.ROWS} rows of {growth.LENGTH} random tokens and the top {growth.LAYERS} layers where "
        f"nothing else is said, batch {run['batch']}, {run['precision']}.\n\n{growth.table(points)}"
    )


def plain(text: str) -> str:
    return text.replace("|", "/")
