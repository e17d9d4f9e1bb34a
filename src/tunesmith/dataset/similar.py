"""Near-duplicates among millions of rows: MinHash signatures on disk, banded, then verified exactly.

Broder 1997, "On the resemblance and containment of documents"; banding as in Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from tunesmith.files import storage_errors

PERMUTATIONS = 64
"""Values in a signature: 256 bytes a row, an estimate within 0.045 (sigma, at 0.85), enough for 12 bands of 5."""
PIECE = 5
"""Characters in a piece."""
FIRST = 8
"""A row is compared with that many first rows of its bucket, so work grows with n, not with n squared."""
BLOCK = 2048
"""Pieces hashed at once; a long text is hashed in blocks, all of it, with half a megabyte of memory."""
MOST = 8
"""A row is verified against that many of the rows that it is estimated to be most like: among thousands of rows of one
pattern, each almost as similar as asked for, it would be against a hundred."""
LONGEST = 200_000
"""Characters of a row that are compared, from its beginning: a line of 60 MB would take gigabytes."""
HELD = 32 << 20
"""Bytes of pieces that are kept for rows to be compared with again."""
_SLICE = 1 << 15
"""Signatures read or compared at once (8 MB)."""
_PAIR = np.dtype([("earlier", "u4"), ("later", "u4"), ("estimate", "f4")])

# What separates words and sentences. Operators and signs stay: "3 + 4" is not "3 - 4", and C# is not C.
_MARKS = """,.;:!?"'`()[]{}，．；：！？＂＇（）［］｛｝｡､｢｣、。〈〉《》「」『』【】〔〕〖〗“”‘’—–…·•～〜"""
_SPACES = "".join(c for c in map(chr, range(0x3001)) if c.isspace())


def normal(text: str) -> str:
    """The text as it is compared: NFKC, no case, one space for each run of spaces and punctuation."""
    return " ".join(_words(text).split()) or text


def normal_all(texts: Sequence[str]) -> list[str]:
    """`normal` of each, done to all of them at once: for short texts that takes a quarter of the time."""
    whole = "\0".join(texts)
    if whole.count("\0") != max(0, len(texts) - 1):
        return [normal(text) for text in texts]
    return [" ".join(words.split()) or text for words, text in zip(_words(whole).split("\0"), texts, strict=False)]


def _words(text: str) -> str:
    text = _spaced(text)  # full-width punctuation too: most Chinese text is NFKC once that is gone
    if not unicodedata.is_normalized("NFKC", text):
        text = _spaced(unicodedata.normalize("NFKC", text))
    return text.casefold()


def _spaced(text: str) -> str:
    """With a space for each character between words. Looking for one after the other is fastest: most are absent."""
    for character in _MARKS + _SPACES:
        if character in text:
            text = text.replace(character, " ")
    return text


def signature(text: str) -> np.ndarray:
    """MinHash of the text's pieces: uint32 [PERMUTATIONS], the same on every machine."""
    hashes = (_hashes(normal(text[:LONGEST])) >> np.uint64(32)).astype(np.uint32)
    lowest = np.full(PERMUTATIONS, 0xFFFFFFFF, np.uint32)
    for start in range(0, len(hashes), BLOCK):
        mixed = np.multiply.outer(_FACTORS, hashes[start : start + BLOCK])
        mixed += _OFFSETS[:, None]
        np.minimum(lowest, mixed.min(axis=1), out=lowest)
    return lowest


def jaccard(a: str, b: str) -> float:
    """Pieces that both texts have / pieces that either has; 1.0 for texts that are equal as compared."""
    return _overlap(_pieces(a), _pieces(b))


class Signatures:
    """Signatures in a file of ``folder``, in the order in which they were added; goes on with what is there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "signatures.u32"
        with storage_errors(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self.path.touch()

    def __len__(self) -> int:
        return self.path.stat().st_size // (4 * PERMUTATIONS)

    def add(self, rows: np.ndarray) -> None:
        """Append signatures [n, PERMUTATIONS] (or one). Raises `StorageError` when the disk is full."""
        rows = rows.reshape(-1, PERMUTATIONS)
        with storage_errors(self.path), self.path.open("r+b") as file:
            file.seek(len(self) * 4 * PERMUTATIONS)  # over a row that was torn by a crash
            file.write(rows.astype("<u4").tobytes())

    def pairs(self, similarity: float) -> Iterator[np.ndarray]:
        """Rows that may be at least so similar, with an estimate of their Jaccard similarity: records (earlier, later,
        estimate), many at a time, no later row twice among them; a pair may come again with others.

        A pair exactly at ``similarity`` is found with a chance of 99.5 % (less in a bucket of very many rows that
        are not alike, of which only the first are looked at); some pairs are less similar and must be verified.
        """
        if len(self) < 2:
            return
        rows = np.memmap(self.path, "<u4", "r", shape=(len(self), PERMUTATIONS))
        least = similarity - 3 * (similarity * (1 - similarity) / PERMUTATIONS) ** 0.5
        kept = np.arange(len(rows))
        # Equal rows meet their first one, and only that one is looked at further.
        for firsts, others in _bucket_pairs(rows, kept, slice(0, PERMUTATIONS), 1):
            yield _records(firsts, others, _estimates(rows, firsts, others))
            kept = np.setdiff1d(kept, others, assume_unique=True)
        size = band_size(similarity)
        for start in range(0, PERMUTATIONS - size + 1, size):
            for firsts, others in _bucket_pairs(rows, kept, slice(start, start + size), FIRST):
                estimates = _estimates(rows, firsts, others)
                near = estimates >= least
                yield _records(firsts[near], others[near], estimates[near])


def band_size(similarity: float) -> int:
    """Most values in a band with which a pair just so similar still meets in one of the bands, in 99.5 % of cases."""
    for size in range(PERMUTATIONS, 1, -1):
        if 1 - (1 - similarity**size) ** (PERMUTATIONS // size) >= 0.995:
            return size
    return 1


def near_duplicates(
    texts: Callable[[int], str], signatures: Signatures, similarity: float
) -> Iterator[tuple[int, int, float]]:
    """Which rows repeat an earlier one: (kept, duplicate, exact Jaccard), by duplicate; ``texts`` gives a text."""
    candidates = Candidates(len(signatures))
    for pairs in signatures.pairs(similarity):
        candidates.add(pairs)
    return verified(texts, candidates, similarity)


def verified(
    texts: Callable[[int], str], candidates: Candidates, similarity: float
) -> Iterator[tuple[int, int, float]]:
    """The second half of `near_duplicates`.

    Clusters are stars: a row belongs to the kept row, of those it is verified to be so similar to, that it is estimated
    to be most like. In a chain a ~ b ~ c, c goes with b to a if c is similar to a itself, else c is kept; so no row is
    lost to one unlike it.
    """
    pieces = _Held(lambda row: _pieces(texts(row)))
    kept_for: dict[int, int] = {}
    for later, group in groupby(candidates, key=itemgetter(0)):
        for kept in dict.fromkeys(kept_for.get(earlier, earlier) for _, earlier in group):
            exact = _overlap(pieces(kept), pieces(later))
            if exact >= similarity:
                kept_for[later] = kept
                yield kept, later, exact
                break


class Candidates:
    """For each row the `MOST` earlier ones that it is estimated to be most like: 64 bytes a row, however many pairs."""

    def __init__(self, rows: int) -> None:
        self._earlier = np.zeros((rows, MOST), np.uint32)
        self._estimates = np.full((rows, MOST), -1, np.float32)

    def add(self, pairs: np.ndarray) -> None:
        """Pairs as `Signatures.pairs` gives them."""
        for start in range(0, len(pairs), _SLICE):
            part = pairs[start : start + _SLICE]
            known = (self._earlier[part["later"]] == part["earlier"][:, None]) & (self._estimates[part["later"]] >= 0)
            part = part[~known.any(axis=1)]
            rows = part["later"]
            earlier = np.column_stack([self._earlier[rows], part["earlier"]])
            estimates = np.column_stack([self._estimates[rows], part["estimate"]])
            order = np.lexsort((earlier, -estimates))[:, :MOST]
            self._earlier[rows] = np.take_along_axis(earlier, order, 1)
            self._estimates[rows] = np.take_along_axis(estimates, order, 1)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(later, earlier) by the later row, the highest estimate first."""
        for start in range(0, len(self._earlier), _SLICE):
            there = np.argwhere(self._estimates[start : start + _SLICE] >= 0)
            later = there[:, 0] + start
            yield from zip(later.tolist(), self._earlier[later, there[:, 1]].tolist(), strict=True)


class _Held:
    """Pieces of the rows that were asked for last, `HELD` bytes of them."""

    def __init__(self, make: Callable[[int], np.ndarray]) -> None:
        self._make, self._rows, self._size = make, OrderedDict[int, np.ndarray](), 0

    def __call__(self, row: int) -> np.ndarray:
        made = self._rows.pop(row, None)
        if made is None:
            made = self._make(row)
            self._size += made.nbytes
        self._rows[row] = made
        while self._size > HELD and len(self._rows) > 1:
            self._size -= self._rows.popitem(last=False)[1].nbytes
        return made


def _pieces(text: str) -> np.ndarray:
    """The text's different pieces, as sorted 64-bit hashes."""
    return np.unique(_hashes(normal(text[:LONGEST])))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    both = np.concatenate([a, b])
    both.sort()
    shared = int((both[1:] == both[:-1]).sum())
    return shared / (len(both) - shared)


def _hashes(text: str) -> np.ndarray:
    """A hash of each piece, uint64: a polynomial of its characters modulo 2**64, mixed."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    if len(codes) < PIECE:
        codes = np.pad(codes, (0, PIECE - len(codes)))
    count = len(codes) - PIECE + 1
    hashes = codes[:count].copy()
    for i in range(1, PIECE):
        hashes *= _BASE
        hashes += codes[i : i + count]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _BASE
    return hashes


def _bucket_pairs(
    rows: np.ndarray, kept: np.ndarray, band: slice, first: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows among ``kept`` that share a band, as (earlier rows, later rows), one of the bucket's ``first`` at a time."""
    hashes = _band_hashes(rows, band)[kept]
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    places = np.arange(len(order))
    begins = np.maximum.accumulate(np.where(np.diff(hashes, prepend=~hashes[:1]) != 0, places, 0))
    behind = places - begins
    for i in range(first):
        members = np.flatnonzero(behind > i)
        yield kept[order[begins[members] + i]], kept[order[members]]


def _band_hashes(rows: np.ndarray, band: slice) -> np.ndarray:
    """One uint64 a row, read in slices so that only these stay in memory."""
    hashes = np.zeros(len(rows), np.uint64)
    for start in range(0, len(rows), _SLICE):
        part = hashes[start : start + _SLICE]
        for column in rows[start : start + _SLICE, band].T:
            part ^= part >> np.uint64(29)
            part *= _BASE
            part += column
    return hashes


def _records(firsts: np.ndarray, others: np.ndarray, estimates: np.ndarray) -> np.ndarray:
    made = np.empty(len(firsts), _PAIR)
    made["earlier"], made["later"], made["estimate"] = firsts, others, estimates
    return made


def _estimates(rows: np.ndarray, firsts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Share of equal values in each pair of signatures: an unbiased estimate of its Jaccard similarity."""
    parts = [np.empty(0)]
    for start in range(0, len(firsts), _SLICE):
        part = slice(start, start + _SLICE)
        parts.append((rows[firsts[part]] == rows[others[part]]).mean(axis=1))
    return np.concatenate(parts)


def _constants(count: int) -> np.ndarray:
    """Fixed well-mixed numbers (splitmix64), the same wherever this runs: uint32 [count]."""
    made, state = [], 0
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB % 2**64
        made.append(mixed >> 32)
    return np.array(made, np.uint32)


_BASE = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = _constants(PERMUTATIONS) | np.uint32(1)  # odd: a permutation of the 32-bit numbers
_OFFSETS = _constants(2 * PERMUTATIONS)[PERMUTATIONS:]
