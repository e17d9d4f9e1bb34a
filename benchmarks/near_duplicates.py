"""How fast and how complete `tunesmith.dataset.similar` is: python benchmarks/near_duplicates.py [ROWS]

Rows of about 300 characters, half English and half Chinese, with common words more common than others. Each of the last
tenth is a copy of an earlier row with one or two words changed. Recall: of the copies that are at least 0.85 alike by
exact Jaccard, how many are found. Precision: of what is found, how much is at least 0.85 alike.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tunesmith.dataset.similar import Signatures, jaccard, near_duplicates, signature

SIMILARITY = 0.85


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    rows, originals = corpus(count, random.Random(0))
    with tempfile.TemporaryDirectory() as folder:
        signatures = Signatures(Path(folder))
        began, cpu = time.perf_counter(), time.process_time()
        for start in range(0, count, 1000):
            signatures.add(np.stack([signature(row) for row in rows[start : start + 1000]]))
        signed = time.process_time() - cpu
        found = list(near_duplicates(rows.__getitem__, signatures, SIMILARITY))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    alike = {row for row, of in originals.items() if jaccard(rows[row], rows[of]) >= SIMILARITY}
    right = sum(jaccard(rows[kept], rows[row]) >= SIMILARITY for kept, row, _ in found)
    print(f"rows                {count:,} of {sum(map(len, rows)) / count:.0f} characters")
    print(f"seconds             {seconds:.1f} ({cpu:.1f} of processor time; signatures {signed:.1f})")
    print(f"copies changed      {len(originals):,}, of which at least {SIMILARITY} alike {len(alike):,}")
    print(f"found               {len(found):,}")
    print(f"recall              {len(alike & {row for _, row, _ in found}) / len(alike):.2%}")
    print(f"precision           {right / len(found):.2%}")
    print(f"peak memory         {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB, rows included")


def corpus(count: int, rng: random.Random) -> tuple[list[str], dict[int, int]]:
    """Rows, and for each copy the row that it was made from."""
    words = {language: vocabulary(language, rng) for language in ("en", "zh")}
    rows: list[list[str]] = []
    originals: dict[int, int] = {}
    for i in range(count):
        if i < count * 9 // 10:
            language = ("en", "zh")[i % 2]
            rows.append(sample(words[language], 50 if language == "en" else 130, rng))
            continue
        originals[i] = rng.randrange(count * 9 // 10)
        row = list(rows[originals[i]])
        for place in rng.sample(range(len(row)), rng.choice((1, 2))):
            row[place] = rng.choice(words[("en", "zh")[originals[i] % 2]])
        rows.append(row)
    return [(" " if row[0].isascii() else "").join(row) for row in rows], originals


def vocabulary(language: str, rng: random.Random) -> list[str]:
    def letters(length: int) -> str:
        if language == "en":
            return "".join(rng.choices("etaoinshrdlucmfwygpbvk", k=length))
        return "".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(length))

    lengths = range(2, 9) if language == "en" else (1, 2, 2, 3, 4)
    return [letters(rng.choice(lengths)) for _ in range(20_000)]


def sample(words: list[str], count: int, rng: random.Random) -> list[str]:
    """Words, the first ones of the vocabulary more often (roughly Zipf)."""
    return [words[int(len(words) ** rng.random()) - 1] for _ in range(count)]


main()
