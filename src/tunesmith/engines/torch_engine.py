"""The engine for CUDA and CPU: our own decoder on torch, one LoRA adapter, torch's AdamW."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunesmith.engines import adapter as layout
from tunesmith.engines.base import (
    Batch,
    Job,
    LoraShape,
    Precision,
    Result,
    StepResult,
    StepSettings,
    iterate_by_tokens,
    peak_memory,
)
from tunesmith.engines.needs import MOST_TOKENS
from tunesmith.engines.ranks import ALONE, Ranks, total
from tunesmith.engines.torch_cores import Cores, memory_errors
from tunesmith.engines.torch_decoder import Decoder, Layer, Update, Updates
from tunesmith.engines.torch_head import Measured, measure
from tunesmith.engines.torch_pack import Packed, pack
from tunesmith.engines.torch_slots import TorchSlots
from tunesmith.engines.writing import Generation, Picker, write
from tunesmith.errors import EngineError, TrainingError
from tunesmith.models.architecture import Architecture

LEAST_TOKENS = 64
"""Fewer tokens than that are not worth a core of their own: its matrix products would be too thin."""
FEW_SHAPES = 16
"""Lengths are padded to a multiple of that: for every new shape of a matrix product the CPU library
writes new machine code, which takes longer than the product and is kept in memory. Without it steps on
rows of all lengths took twice as long, and memory grew by 100 MB with each."""
CODE, OF_A_LENGTH = 256 << 20, 15
"""Bytes that may be spent on keeping that code, which comes with a copy of its matrix, and the products that each new
number of tokens needs. With too few kept, steps of a small model took half as long again; in a large one the products
themselves take longer than their code."""
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
Cut = Callable[[Tensor, Tensor], Tensor]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass
class Trained:
    """The adapter of one group: its modules stacked, so that they multiply at once.

    a [rank of all, in]; b [out of all, rank of all], zero outside the blocks that ``mask`` marks.
    """

    a: Tensor
    b: Tensor
    mask: Tensor
    slots: dict[str, tuple[slice, slice]]
    """Module -> its ranks in a and b, its outputs in b."""

    def add(self, update: Update) -> None:
        """Take in the gradients that one part of the rows left on its copy."""
        for mine, grad in ((self.a, update.a.grad), (self.b, update.b.grad)):
            assert grad is not None
            grad = grad.float() if mine is self.a else grad.float().mul_(self.mask)
            mine.grad = grad if mine.grad is None else mine.grad.add_(grad)


class TorchEngine:
    """See `engines.base.Engine`. ``dtype``: "bf16", "fp32", or "auto" for the one this machine multiplies fastest;
    ``above``: layers below it are read when they are needed instead of being kept in memory."""

    name = "torch"

    def __init__(
        self, folder: Path, arch: Architecture, dtype: str = "auto", above: int = 0, ranks: Ranks = ALONE
    ) -> None:
        self.arch, self.ranks = arch, ranks
        self.device = best_device()
        name: Any = fastest_dtype(self.device) if dtype == "auto" else dtype
        if name not in DTYPES:
            raise EngineError(f"precision {dtype!r} is not known; known are auto, {', '.join(DTYPES)}")
        self.dtype = DTYPES[name]
        self.precision: Precision = name
        self._cores = Cores(core_count(self.device))
        self._multiple = FEW_SHAPES if self.device.type == "cpu" else 1
        _keep_code(arch)
        with memory_errors(), torch.no_grad():
            self.decoder = Decoder(folder, arch, self.dtype, self.device, above)
        self._trained: dict[tuple[int, str], Trained] = {}
        self._shape = LoraShape()
        self._optimizer: torch.optim.AdamW | None = None

    # -- the adapter -----------------------------------------------------------------------------

    def add_adapter(self, shape: LoraShape, seed: int) -> None:
        self._shape, self._optimizer = shape, None
        self._trained = {
            (layer, group): self._stack([name for name in names if name in shape.modules])
            for layer in layout.trained_layers(self.arch, shape)
            for group, names in layout.GROUPS.items()
            if any(name in shape.modules for name in names)
        }
        self.load_adapter_arrays(layout.fresh(self.arch, shape, seed))

    def _stack(self, modules: list[str]) -> Trained:
        group = next(names for names in layout.GROUPS.values() if modules[0] in names)
        rank, outs = self._shape.rank, {name: layout.widths(self.arch, name)[1] for name in group}
        a = torch.zeros(rank * len(modules), layout.widths(self.arch, modules[0])[0], device=self.device)
        b = torch.zeros(sum(outs.values()), rank * len(modules), device=self.device)
        mask, slots, out = torch.zeros_like(b), {}, 0
        for name in group:
            if name in modules:
                i = modules.index(name)
                slots[name] = (slice(i * rank, (i + 1) * rank), slice(out, out + outs[name]))
                mask[slots[name][1], slots[name][0]] = 1
            out += outs[name]
        return Trained(a.requires_grad_(), b.requires_grad_(), mask, slots)

    def _blocks(self) -> Iterator[tuple[str, Trained, Cut]]:
        """PEFT's name of every array, the group it is part of, and how to cut it out."""
        for (layer, _), trained in self._trained.items():
            for module, (ranks, outs) in trained.slots.items():
                yield layout.key(layer, module, "A"), trained, lambda a, b, r=ranks: a[r]
                yield layout.key(layer, module, "B"), trained, lambda a, b, r=ranks, o=outs: b[o, r]

    def adapter_arrays(self) -> dict[str, np.ndarray]:
        self._need_adapter()
        return self._named(lambda t: (t.a, t.b))

    def _named(self, of: Callable[[Trained], tuple[Tensor, Tensor]]) -> dict[str, np.ndarray]:
        """Arrays under PEFT's names, cut out of an (a-like, b-like) pair of every group."""
        return {name: _numpy(cut(*of(t))) for name, t, cut in self._blocks()}

    def _need_adapter(self) -> None:
        if not self._trained:
            raise EngineError("there is no adapter to train yet; call add_adapter first")

    @torch.no_grad()
    def load_adapter_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        layout.check_layout(self._named(lambda t: (t.a, t.b)), arrays)
        for name, t, cut in self._blocks():
            cut(t.a, t.b).copy_(_tensor(arrays[name]))

    # -- training --------------------------------------------------------------------------------

    def step(self, micro_batches: Sequence[Batch], settings: StepSettings) -> StepResult:
        self._need_adapter()
        learned = int(total(self.ranks, sum(batch.learned for batch in micro_batches)))
        if not learned:
            raise TrainingError(f"step {settings.step} has no token to learn; check the rows with `tunesmith check`")
        work = [
            (batch, rows, self._generator(settings, i, j))
            for i, batch in enumerate(micro_batches)
            for j, rows in enumerate(self._parts(batch))
        ]
        loss = 0.0
        for jobs in self._cores.rounds(work):
            ahead = self._cores.each(self._ahead, jobs)
            packs, hidden, updates = zip(*ahead, strict=True)
            measured = measure(self.decoder.head, packs, hidden, self._cores, wanted=True)
            self._cores.each(lambda job: _back(*job, learned), list(zip(hidden, measured, strict=True)))
            loss += sum(found.losses.double().sum().item() for found in measured)
            for one in updates:
                for place, update in one.items():
                    self._trained[place].add(update)
        loss = self._over_ranks(loss)
        return StepResult(loss / learned, self._update(settings), learned)

    def _over_ranks(self, loss: float) -> float:
        """The loss of all ranks, whose gradients are added to ours. A rank without rows adds nothing."""
        if self.ranks.size == 1:
            return loss
        parameters = self._parameters()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        *gradients, summed = self.ranks.sum([*gradients, torch.tensor([loss], dtype=torch.float64)])
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        return summed.item()

    def _ahead(self, job: tuple[Batch, list[int], torch.Generator | None]) -> tuple[Packed, Tensor, Updates]:
        """Some rows, what their predictions are made of, and the updates that will collect the gradients."""
        batch, rows, generator = job
        packed, updates = self._packed(batch, rows), self._updates(generator, wanted=True)
        return packed, self.decoder.hidden(packed, updates, self._lowest(), packed.at), updates

    def _parts(self, batch: Batch) -> list[list[int]]:
        """The rows that learn, in parts of about as many tokens each: one or more for each core that
        works by itself."""
        rows = [int(row) for row in np.argsort(-batch.lengths, kind="stable") if batch.learn[row].any()]
        cores = min(self._cores.count, max(1, batch.tokens // LEAST_TOKENS))
        rounds = -(-batch.tokens // (MOST_TOKENS * cores)) if self._cores.count > 1 else 1
        parts: list[list[int]] = [[] for _ in range(min(cores * rounds, len(rows)))]
        for row in rows:
            min(parts, key=lambda taken: int(batch.lengths[taken].sum())).append(row)
        return parts

    def _generator(self, settings: StepSettings, micro: int, part: int) -> torch.Generator | None:
        if not self._shape.dropout:
            return None
        entropy = settings.entropy(self.ranks.rank, micro, part).generate_state(1)[0]
        return torch.Generator(self.device).manual_seed(int(entropy))

    def _update(self, settings: StepSettings) -> float:
        parameters = self._parameters()
        length = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if settings.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip, length)
        norm = float(length)
        optimizer = self._adamw()
        optimizer.param_groups[0].update(lr=settings.learning_rate, weight_decay=settings.weight_decay)
        if np.isfinite(norm):  # a broken gradient must not reach the adapter
            optimizer.step()
        optimizer.zero_grad()
        return norm

    def _parameters(self) -> list[Tensor]:
        return [p for trained in self._trained.values() for p in (trained.a, trained.b)]

    def _adamw(self) -> torch.optim.AdamW:
        if self._optimizer is None:
            self._optimizer = torch.optim.AdamW(self._parameters(), betas=(0.9, 0.999), eps=1e-8, fused=True)
        return self._optimizer

    def optimizer_arrays(self) -> dict[str, np.ndarray]:
        if self._optimizer is None or not self._optimizer.state:
            return {}
        state = self._optimizer.state
        return {
            f"{short}.{name}": array
            for short, long in MOMENTS.items()
            for name, array in self._named(lambda t, of=long: (state[t.a][of], state[t.b][of])).items()
        }

    @torch.no_grad()
    def load_optimizer_arrays(self, arrays: dict[str, np.ndarray], steps: int) -> None:
        self._optimizer = None
        if not arrays:
            return
        state = self._adamw().state
        for p in self._parameters():
            state[p] = {"step": torch.tensor(float(steps), device=p.device), "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p)}  # fmt: skip
        for name, t, cut in self._blocks():
            for short, long in MOMENTS.items():
                cut(state[t.a][long], state[t.b][long]).copy_(_tensor(arrays[f"{short}.{name}"]))

    # -- measuring and generating ----------------------------------------------------------------

    def losses(self, batch: Batch, *, adapter: bool = True) -> tuple[np.ndarray, np.ndarray]:
        summed, updates = np.zeros(len(batch.ids)), self._updates(adapter=adapter)
        for parts in self._cores.rounds(self._parts(batch)):
            packs = [self._packed(batch, rows) for rows in parts]
            hidden = self._cores.each(lambda packed: self._predicting(packed, updates), packs)
            found = measure(self.decoder.head, packs, hidden, self._cores)
            for rows, packed, (losses, _) in zip(parts, packs, found, strict=True):
                np.add.at(
                    summed, np.asarray(rows)[packed.row[packed.learn].cpu().numpy()], losses.double().cpu().numpy()
                )
        return summed, batch.learn.sum(1).astype(np.int64)

    @torch.no_grad()
    def _predicting(self, packed: Packed, updates: Updates) -> Tensor:
        return self.decoder.hidden(packed, updates, self._lowest(), packed.at)

    def ending_losses(
        self, prompts: Sequence[Sequence[int]], endings: Sequence[Sequence[Sequence[int]]], *, adapter: bool = True
    ) -> list[np.ndarray]:
        def measured(rows: list[int]) -> list[np.ndarray]:
            slots = self.slots(adapter=adapter)
            return slots.ending_losses([prompts[row] for row in rows], [endings[row] for row in rows])

        found = self._cores.each(measured, self._shares(len(prompts)))
        return [one for part in found for one in part]

    @torch.no_grad()
    def logits(self, ids: Sequence[int], *, adapter: bool = True) -> np.ndarray:
        with memory_errors():
            row = self._packed(_unlearned([np.asarray(ids)]), [0])
            hidden = self.decoder.hidden(row, self._updates(adapter=adapter))[: len(ids)]
            return (hidden @ self.decoder.head.t()).float().cpu().numpy()

    def prefix(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._need_adapter()
        groups = list(iterate_by_tokens([len(row) for row in rows], MOST_TOKENS))
        packs = [self._packed(_unlearned([rows[i] for i in group]), range(len(group))) for group in groups]
        states = self._cores.each(self._embedded, packs)
        for i in range(self._lowest()):
            states = self._through(i, states, packs)
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for group, x in zip(groups, states, strict=True):
            at = 0
            for i in group:  # the longest first, as they are packed
                found[i] = _bits(x[at : at + len(rows[i])])
                at += len(rows[i])
        return found

    def _through(self, i: int, states: Sequence[Tensor], packs: Sequence[Packed]) -> list[Tensor]:
        """States behind layer ``i``, of which nothing stays in memory when it is not kept."""
        layer = self.decoder.layer(i)
        jobs = [(x, packed, i, layer) for x, packed in zip(states, packs, strict=True)]
        return self._cores.each(self._advanced, jobs)

    @torch.no_grad()
    def _embedded(self, packed: Packed) -> Tensor:
        return self.decoder.embed(packed.ids)

    @torch.no_grad()
    def _advanced(self, job: tuple[Tensor, Packed, int, Layer]) -> Tensor:
        return self.decoder.advance(*job, {})

    def _lowest(self) -> int:
        return layout.trained_layers(self.arch, self._shape).start

    def _packed(self, batch: Batch, rows: Sequence[int]) -> Packed:
        packed = pack(batch, rows, self._multiple, self.device)
        if packed.states is None:
            return packed
        states = packed.states.view(torch.bfloat16) if packed.states.dtype == torch.uint16 else packed.states
        return replace(packed, states=states.to(self.dtype))

    def generate(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop: frozenset[int],
                 temperature: float = 0.0, seed: int = 0, adapter: bool = True,
                 on_token: Callable[[int, int], None] | None = None) -> list[Generation]:  # fmt: skip
        if not all(prompts):
            raise EngineError("a prompt to continue has no tokens; give it at least one")

        def answer(rows: list[int]) -> dict[int, Generation]:
            taken, pick = [prompts[row] for row in rows], Picker(temperature, seed)
            return write(self.slots(adapter=adapter), rows, taken, pick, max_new_tokens, stop, on_token)

        found = {row: one for part in self._cores.each(answer, self._shares(len(prompts))) for row, one in part.items()}
        return [found[row] for row in range(len(prompts))]

    def _shares(self, rows: int) -> list[list[int]]:
        """So many rows divided among the cores."""
        return [share.tolist() for share in np.array_split(np.arange(rows), self._cores.count) if len(share)]

    def slots(self, *, adapter: bool = True) -> TorchSlots:
        return TorchSlots(self.decoder, self._updates(adapter=adapter))

    @property
    def lanes(self) -> int:
        return self._cores.count

    def side_by_side(self, do: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        return self._cores.each(do, jobs)

    def memory(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else peak_memory()

    def _updates(
        self, generator: torch.Generator | None = None, *, adapter: bool = True, wanted: bool = False
    ) -> Updates:
        """A copy of the adapter in the compute type; with ``wanted``, one that collects gradients."""
        if not adapter:
            return {}

        def copy(t: Tensor) -> Tensor:
            return t.detach().to(self.dtype, copy=True).requires_grad_(wanted)

        dropout = self._shape.dropout if generator else 0.0
        return {
            place: Update(copy(t.a), copy(t.b), self._shape.scale, dropout, generator)
            for place, t in self._trained.items()
        }


def _keep_code(arch: Architecture) -> None:
    """Tell oneDNN for how many products it keeps its code; it asks once, at the first product of a process."""
    lengths = CODE // (2 * arch.layer_parameters)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(OF_A_LENGTH * min(max(2, lengths), 32)))


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def core_count(device: torch.device) -> int:
    """How many take rows of their own; a graphics processor takes all of them."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def fastest_dtype(device: torch.device) -> Precision:
    """bf16 where the processor multiplies it in hardware, fp32 elsewhere."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def _back(hidden: Tensor, measured: Measured, learned: int) -> None:
    """Leaves the gradients of the mean loss over ``learned`` predictions on the updates."""
    assert measured.gradient is not None
    hidden.backward(measured.gradient.div_(learned).to(hidden.dtype))


def _unlearned(rows: Sequence[np.ndarray]) -> Batch:
    return Batch.of([(row, np.zeros(len(row), bool)) for row in rows])


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy().copy()


def _bits(states: Tensor) -> np.ndarray:
    """float32, or the bits of bf16, for which numpy has no type."""
    states = states.cpu().contiguous()
    return (states.view(torch.uint16) if states.dtype == torch.bfloat16 else states).numpy().copy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
