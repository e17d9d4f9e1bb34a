"""Sources -> train, valid and test rows, with a report in which every input is accounted for.

Rows stream through: they are read in pieces by all cores, lie in a file on disk, and only their keys
(hashes, 63 bytes a row) are in memory at once, where it is decided which stay and on which side.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from tunesmith import files
from tunesmith.cluster import Cluster
from tunesmith.dataset import decide, divided, similar
from tunesmith.dataset.boilerplate import Edges
from tunesmith.dataset.digest import Digest, Encoding, Work, chat_format, digest, tokenize
from tunesmith.dataset.pool import WORTH, Pool
from tunesmith.dataset.report import Account, Tally, build_report
from tunesmith.dataset.split import PARTS, Part, parts_of
from tunesmith.dataset.spool import PIECE, Spool
from tunesmith.dataset.store import Tokens, Writer
from tunesmith.progress import Progress
from tunesmith.settings import DataSettings, SourceTable
from tunesmith.sources.document import Document, Unread
from tunesmith.sources.example import Example, Origin
from tunesmith.sources.quarantine import Quarantined
from tunesmith.sources.read import Item, paths_of, read_later_of, read_source
from tunesmith.sources.rows import Block

OnFetch = Callable[[str, int, int], None]


def prepare(
    data: DataSettings, model: Path, folder: Path, *, workers: int | None = None, cluster: str = ""
) -> Iterator[Progress]:
    """Read, clean, divide and tokenize everything that the settings name, into ``folder``: {train, valid,
    test}.jsonl, tokens/, removed.jsonl, quarantine.jsonl, cut.jsonl, preferences.jsonl, report.json. All of it
    appears at once, or nothing. ``model`` is the folder of the model that will learn from it. ``cluster`` is the
    address of one whose nodes do the work; the same files come out.

    That nothing is left to train on is an error in the report. Raises `SourceError` when a source is not there,
    `ClusterError` for a cluster that cannot be used.
    """
    with Cluster(cluster, _needs(data, model)) if cluster else Pool(workers) as pool:
        if _is_large(data):
            pool.begin()
        chat_format(model)  # a model that cannot be read is said before anything is
        with files.atomic_folder(folder) as target:
            scratch = Path(tempfile.mkdtemp(prefix=".rows.", dir=target))
            try:
                yield from _Preparing(data, model, target, scratch, pool).run()
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _needs(data: DataSettings, model: Path) -> list[Path]:
    """Files that whoever reads and tokenizes rows must have: the model's, and documents."""
    documents = (path for source, _ in named_sources(data) for path in read_later_of(source, Path(data.folder)))
    return [*sorted(path for path in model.iterdir() if path.is_file()), *documents]


def _is_large(data: DataSettings) -> bool:
    """Whether the files that are named are worth further processes, as far as their sizes tell."""
    paths = [Path(data.folder) / source.path for source, _ in named_sources(data)]
    try:
        return sum(path.stat().st_size for path in paths if path.is_file()) > WORTH * PIECE
    except OSError:
        return False


def read(folder: Path, part: Part) -> Iterator[Example]:
    """The rows of one part as `prepare` left them."""
    return (Example.from_json(row) for row in files.read_jsonl(folder / f"{part}.jsonl"))


def shared_system(folder: Path) -> str:
    """The system message that the training rows had, if it was the same in all of them: without it a
    model would be asked in another way than it was taught."""
    rows = read(folder, "train")
    first = next(rows, None)
    if first is None or first.messages[0].role != "system":
        return ""
    return first.messages[0].content if all(row.messages[0] == first.messages[0] for row in rows) else ""


def tokens(folder: Path, part: Part) -> Tokens:
    """The same rows as token ids. A row of several sequences stands there several times."""
    return Tokens.open(folder / "tokens", part)


def named_sources(data: DataSettings) -> list[tuple[SourceTable, Part | None]]:
    """Every source with the part that it is for, or None where the split decides."""
    named: list[tuple[SourceTable, Part | None]] = [(source, None) for source in data.sources]
    divided: tuple[tuple[Part, Any], ...] = (("valid", data.split.valid), ("test", data.split.test))
    return named + [(s, part) for part, where in divided if isinstance(where, tuple) for s in where]


def source_files(data: DataSettings, on_progress: OnFetch | None = None) -> Iterator[Path]:
    """Every file that the settings name: what a prepared dataset depends on. A data set of a hub is fetched if it is
    not there yet; ``on_progress`` then gets its name, bytes done and total."""
    for source, _ in named_sources(data):
        yield from paths_of(source, Path(data.folder), on_progress and partial(on_progress, source.path))


class _Preparing:
    """One call of `prepare`."""

    def __init__(self, data: DataSettings, model: Path, target: Path, scratch: Path, pool: Pool | Cluster) -> None:
        self.data, self.model, self.target, self.scratch, self.pool = data, model, target, scratch, pool
        self.sources = named_sources(data)
        self.tally = Tally([Account(source.path) for source, _ in self.sources])
        self.spool = Spool(scratch)
        self._quarantine = (target / "quarantine.jsonl").open("wb")
        self._cut: IO[bytes] | None = None

    def run(self) -> Iterator[Progress]:
        try:
            for index in range(len(self.sources)):
                yield from self._read(index)
            self.spool.finish()
            keys = self.spool.keys
            made = decide.decide(keys, self._parts(keys), self.data.clean)
            if self.data.clean.near_duplicates != "ignore":
                yield from self._near(made)
            yield from self._write(made)
            decide.find_leaks(made, keys)
            self.tally.hints += divided.hints(self.data)
            report = build_report(self.tally, made, self._row, self.data)
            files.write_json(self.target / "report.json", report)
        finally:
            self._quarantine.close()
            if self._cut is not None:
                self._cut.close()
            self.spool.close()

    # -- reading ---------------------------------------------------------------------------------

    def _read(self, index: int) -> Iterator[Progress]:
        source, _ = self.sources[index]
        account = self.tally.accounts[index]
        documents = _Documents(self.scratch / "documents")
        items = read_source(source, Path(self.data.folder))
        for made in self.pool.map(digest, self._works(items)):
            for document in made.documents:
                documents.add(document)
            self._take(made, index)
            done = account.inputs + len(documents)
            yield Progress("working", stage="prepare", message=f"reading {source.path}", done=done)
        self._boilerplate = documents.edges.frozen() if self.data.clean.boilerplate == "remove" else None
        done = 0
        for made in self.pool.map(digest, self._document_works(documents)):
            self._take(made, index)
            done += made.inputs
            yield Progress(
                "working", stage="prepare", message=f"dividing {source.path}", done=done, total=len(documents)
            )

    def _works(self, items: Iterable[Item]) -> Iterator[Work]:
        """Pieces for the processes, of about `PIECE` bytes."""
        pieces, size = list[Example | Unread | Quarantined](), 0
        for item in items:
            block = isinstance(item, Block)
            if not block:
                pieces.append(item)
                size += len(item.text) if isinstance(item, Quarantined) else item.size
            if pieces and (block or size > PIECE):  # everything in its order, however many processes there are
                yield Work(pieces, self.data, self.model)
                pieces, size = [], 0
            if block:
                yield Work(item, self.data, self.model)
        if pieces:
            yield Work(pieces, self.data, self.model)

    def _document_works(self, documents: _Documents) -> Iterator[Work]:
        pieces, size = [], 0
        for document in documents:
            if self._boilerplate is not None:
                text, lines = self._boilerplate.strip(document.text)
                self.tally.boilerplate.update(line.strip() for line in lines if any(c.isalnum() for c in line))
                document = Document(text, document.title, document.origin)
            pieces.append(document)
            size += len(document.text)
            if size > PIECE // 4:  # dividing counts tokens, which takes longer than reading
                yield Work(pieces, self.data, self.model)
                pieces, size = [], 0
        if pieces:
            yield Work(pieces, self.data, self.model)

    def _take(self, made: Digest, index: int) -> None:
        account = self.tally.accounts[index]
        account.inputs += made.inputs
        account.divided += len(made.sizes) + len(made.quarantined) - made.inputs
        self.tally.noted.update(made.noted)
        self.tally.noted_at = {**made.noted_at, **self.tally.noted_at}
        self.tally.personal.update(made.personal)
        self.tally.personal_at = {**made.personal_at, **self.tally.personal_at}
        for item in made.quarantined:
            self._put_in_quarantine(item, index)
        self.spool.add(made, index)

    def _put_in_quarantine(self, item: Quarantined, index: int) -> None:
        self.tally.accounts[index].quarantined += 1
        self.tally.count_reason(item)
        row = {**item.origin.to_json(), "reason": item.reason, "text": item.text}
        self._quarantine.write(files.json_line(row))

    def _parts(self, keys: np.ndarray) -> np.ndarray:
        split = self.data.split
        shares = [where if isinstance(where, float) else 0.0 for where in (split.valid, split.test)]
        parts = parts_of(keys["share"], *shares)
        for index, (_, part) in enumerate(self.sources):
            if part is not None:
                parts[self.spool.source == index] = PARTS.index(part)
        if len(parts) and not np.isin(PARTS.index("train"), parts):  # one document alone, say
            free = np.isin(self.spool.source, [i for i, (_, part) in enumerate(self.sources) if part is None])
            farthest = keys["share"][free].max(initial=0.0)
            parts[free & (keys["share"] == farthest)] = PARTS.index("train")
        return parts

    # -- what was read -----------------------------------------------------------------------------

    def _row(self, row: int) -> Example:
        return Example.from_json(json.loads(self.spool.line(row)))

    def _near(self, made: decide.Decisions) -> Iterator[Progress]:
        rows = decide.first_measured(made)
        signatures, done = similar.Signatures(self.scratch), 0
        for piece in self.pool.map(_signatures, (lines for _, lines in self.spool.pieces(rows))):
            signatures.add(piece)
            done += len(piece)
            yield Progress("working", stage="prepare", message="near-duplicates", done=done, total=len(rows))
        clean, candidates = self.data.clean, similar.Candidates(len(rows))
        for pairs in signatures.pairs(clean.similarity):
            candidates.add(pairs)
            yield Progress("working", stage="prepare", message="near-duplicates", done=done, total=len(rows))
        found = similar.verified(lambda i: _text(self.spool.line(int(rows[i]))), candidates, clean.similarity)
        for kept, repeats, alike in found:
            self.tally.near.append((int(rows[kept]), int(rows[repeats]), alike))
            yield Progress("working", stage="prepare", message="near-duplicates", done=repeats, total=len(rows))
        if clean.near_duplicates == "drop":
            decide.drop_near(made, self.tally.near)

    # -- writing ---------------------------------------------------------------------------------

    def _write(self, made: decide.Decisions) -> Iterator[Progress]:
        kept, done = made.kept, 0
        rows = {part: (self.target / f"{part}.jsonl").open("wb") for part in PARTS}
        stores = {part: Writer(self.target / "tokens", part) for part in PARTS}
        pieces: list[tuple[np.ndarray, list[bytes]]] = []

        def works() -> Iterator[Encoding]:
            for taken, lines in self.spool.pieces(kept):
                pieces.append((taken, lines))
                yield Encoding(lines, self.data.max_tokens, self.model)

        for encoded in self.pool.map(tokenize, works()):
            for row, line, one in zip(*pieces.pop(0), encoded, strict=True):
                source = int(self.spool.source[row])
                if one.refused:
                    made.fate[row] = decide.REFUSED
                    self._put_in_quarantine(
                        Quarantined(_origin(line), one.refused, line.decode("utf-8", "replace")), source
                    )
                    continue
                part = PARTS[made.part[row]]
                rows[part].write(line + b"\n")
                self.tally.accounts[source].rows[part] += 1
                stores[part].add_row(one.sequences)
                for packed in one.sequences:
                    self.tally.measure(part, packed)
                for tokens, lost in one.cut:
                    self._count_cut(_origin(line), part, tokens, lost)
            done += len(encoded)
            yield Progress("working", stage="prepare", message="tokenizing", done=done, total=len(kept))
        for file in (*rows.values(), *stores.values()):
            file.close()
        self._write_removed(made)
        self._write_preferences(made)

    def _count_cut(self, origin: Origin, part: Part, tokens: int, lost: int) -> None:
        self.tally.cut.add(str(origin), tokens, lost)
        self._cut = self._cut or (self.target / "cut.jsonl").open("wb")
        self._cut.write(files.json_line({"part": part, "tokens": tokens, "lost": lost, "origin": origin.to_json()}))

    def _write_removed(self, made: decide.Decisions) -> None:
        """Every row that was read and is not used, with the reason, and the row it repeats."""
        gone = np.flatnonzero(np.isin(made.fate, list(decide.REASONS)))
        with (self.target / "removed.jsonl").open("wb") as file:
            for row in gone:
                fate, line = int(made.fate[row]), json.loads(self.spool.line(int(row)))
                account = self.tally.accounts[int(self.spool.source[row])]
                if fate == decide.DUPLICATE:
                    account.merged += 1
                else:
                    account.removed += 1
                self.tally.removed[decide.REASONS[fate]] += 1
                twin = int(made.twin[row])
                of = {"of": _origin(self.spool.line(twin)).to_json()} if twin >= 0 else {}
                written = {"reason": decide.REASONS[fate], **of, **line}
                file.write(files.json_line(written))

    def _write_preferences(self, made: decide.Decisions) -> None:
        """Pairs of a better and a worse answer, and answers marked good or bad: kept for training on them."""
        rows = np.flatnonzero(self.spool.keys["preference"])
        self.tally.preferences = len(rows)
        if len(rows):
            with (self.target / "preferences.jsonl").open("wb") as file:
                for i in rows.tolist():
                    row = self._row(i)
                    file.write(files.json_line({
                        "prompt": row.asked,
                        "answer": row.answer, **{k: row.extra[k] for k in ("rejected", "label") if k in row.extra},
                        "part": PARTS[made.part[i]], "origin": row.origin.to_json(),
                    }))  # fmt: skip


def _origin(line: bytes) -> Origin:
    return Origin.from_json(json.loads(line)["origin"])


def _text(line: bytes) -> str:
    return "\n".join(m["content"] for m in json.loads(line)["messages"] if m["role"] != "system")


def _signatures(lines: list[bytes]) -> np.ndarray:
    return np.stack([similar.signature(_text(line)) for line in lines])


class _Documents:
    """The documents of one source on disk, until the lines are known that many of them share."""

    def __init__(self, path: Path) -> None:
        self.path, self.edges, self._count = path, Edges(), 0
        path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return self._count

    def add(self, document: Document) -> None:
        self._count += 1
        self.edges.count(document.text)
        row = {"text": document.text, "title": document.title, **document.origin.to_json()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def __iter__(self) -> Iterator[Document]:
        if self.path.exists():
            for row in files.read_jsonl(self.path):
                yield Document(row["text"], row["title"], Origin.from_json(row))
