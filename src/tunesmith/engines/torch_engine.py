"""The engine for CUDA and CPU: our own decoder on torch, one LoRA adapter, torch's AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tunesmith.engines import adapter as layout
from tunesmith.engines.base import Batch, Generation, LoraShape, StepResult, StepSettings, peak_memory
from tunesmith.engines.torch_decoder import GROUPS, Decoder, Update, Updates
from tunesmith.errors import EngineError, OutOfMemory, TrainingError
from tunesmith.models.architecture import Architecture

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


class TorchEngine:
    """See `engines.base.Engine`. ``dtype``: "bf16", "fp32", or "auto" for the one this machine multiplies fastest."""

    name = "torch"

    def __init__(self, folder: Path, arch: Architecture, dtype: str = "auto") -> None:
        self.arch = arch
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        name = fastest_dtype(self.device) if dtype == "auto" else dtype
        if name not in DTYPES:
            raise EngineError(f"precision {dtype!r} is not known; known are auto, {', '.join(DTYPES)}")
        self.dtype = DTYPES[name]
        with _memory_errors(), torch.no_grad():
            self.decoder = Decoder(folder, arch, self.dtype, self.device)
        self._trained: dict[tuple[int, str], Trained] = {}
        self._shape = LoraShape()
        self._optimizer: torch.optim.AdamW | None = None

    # -- the adapter -----------------------------------------------------------------------------

    def add_adapter(self, shape: LoraShape, seed: int) -> None:
        self._shape, self._optimizer = shape, None
        self._trained = {
            (layer, group): self._stack([name for name in names if name in shape.modules])
            for layer in layout.trained_layers(self.arch, shape)
            for group, names in GROUPS.items()
            if any(name in shape.modules for name in names)
        }
        self.load_adapter_arrays(layout.fresh(self.arch, shape, seed))

    def _stack(self, modules: list[str]) -> Trained:
        group = next(names for names in GROUPS.values() if modules[0] in names)
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
        learned = sum(batch.learned for batch in micro_batches)
        if not learned:
            raise TrainingError(f"step {settings.step} has no token to learn; check the rows with `tunesmith check`")
        total = 0.0
        with _memory_errors():
            for i, batch in enumerate(micro_batches):
                if not batch.learned:
                    continue
                generator = self._generator(settings, i)
                ids, learn = self._tensors(batch)
                losses, _ = self.decoder.losses(ids, learn, self._updates(generator))
                loss = losses.sum() / learned
                loss.backward()
                total += loss.item()
            norm = self._update(settings)
        return StepResult(total, norm, learned)

    def _generator(self, settings: StepSettings, micro: int) -> torch.Generator | None:
        if not self._shape.dropout:
            return None
        entropy = np.random.SeedSequence([settings.seed, settings.step, micro]).generate_state(1)[0]
        return torch.Generator(self.device).manual_seed(int(entropy))

    def _update(self, settings: StepSettings) -> float:
        parameters = self._parameters()
        for trained in self._trained.values():
            if trained.b.grad is not None:
                trained.b.grad.mul_(trained.mask)
        grads = [p.grad for p in parameters if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))
        if settings.clip and norm > settings.clip:
            torch._foreach_mul_(grads, settings.clip / (norm + 1e-6))
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
            state[p] = {"step": torch.tensor(float(steps)), "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p)}  # fmt: skip
        for name, t, cut in self._blocks():
            for short, long in MOMENTS.items():
                cut(state[t.a][long], state[t.b][long]).copy_(_tensor(arrays[f"{short}.{name}"]))

    # -- measuring and generating ----------------------------------------------------------------

    @torch.no_grad()
    def losses(self, batch: Batch, *, adapter: bool = True) -> tuple[np.ndarray, np.ndarray]:
        with _memory_errors():
            ids, learn = self._tensors(batch)
            losses, rows = self.decoder.losses(ids, learn, self._updates(adapter=adapter))
        summed = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, rows.cpu(), losses.double().cpu())
        return summed.numpy(), batch.learn.sum(1).astype(np.int64)

    @torch.no_grad()
    def logits(self, ids: Sequence[int], *, adapter: bool = True) -> np.ndarray:
        with _memory_errors():
            row = torch.tensor([list(ids)], device=self.device)
            hidden = self.decoder.hidden(row, self._updates(adapter=adapter))
            return (hidden @ self.decoder.head.t()).float().cpu().numpy()

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, stop: frozenset[int],
                 temperature: float = 0.0, seed: int = 0, adapter: bool = True,
                 on_token: Callable[[int, int], None] | None = None) -> list[Generation]:  # fmt: skip
        if not all(prompts):
            raise EngineError("an empty prompt cannot be continued")
        results = [Generation() for _ in prompts]
        if not prompts:
            return results
        updates, draws = self._updates(adapter=adapter), [np.random.default_rng([seed, row]) for row in range(len(prompts))]
        with _memory_errors():
            alive = list(range(len(prompts)))
            ids, pads = self._left_padded(prompts)
            cache = self.decoder.new_cache(len(prompts), ids.shape[1] + max_new_tokens)
            for _ in range(max_new_tokens):
                chosen = _choose(self.decoder.read(ids, pads, cache, updates), temperature, [draws[row] for row in alive])
                going = []
                for at, (row, token) in enumerate(zip(alive, chosen.tolist(), strict=True)):
                    if token in stop:
                        results[row].stopped = True
                        continue
                    results[row].ids.append(token)
                    if on_token:
                        on_token(row, token)
                    going.append(at)
                if not going:
                    break
                ids = chosen[:, None]
                if len(going) < len(alive):
                    rows = torch.tensor(going, device=self.device)
                    cache.keep(rows)
                    ids, pads, alive = ids[rows], pads[rows], [alive[at] for at in going]
        return results

    def memory(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else peak_memory()

    def _updates(self, generator: torch.Generator | None = None, *, adapter: bool = True) -> Updates:
        """The adapter in the compute type."""
        if not adapter:
            return {}
        dropout = self._shape.dropout if generator else 0.0
        return {
            place: Update(t.a.to(self.dtype), t.b.to(self.dtype), self._shape.scale, dropout, generator)
            for place, t in self._trained.items()
        }

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(batch.ids.astype(np.int64)).to(self.device)
        return ids, torch.from_numpy(batch.learn).to(self.device)

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(len(p) for p in prompts)
        pads = [longest - len(p) for p in prompts]
        ids = [[0] * pad + list(p) for pad, p in zip(pads, prompts, strict=True)]
        return torch.tensor(ids, device=self.device), torch.tensor(pads, device=self.device)


def fastest_dtype(device: torch.device) -> str:
    """bf16 where the processor multiplies it in hardware, fp32 elsewhere."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def _choose(logits: Tensor, temperature: float, draws: list[np.random.Generator]) -> Tensor:
    """The next token of each row: the likeliest, or one drawn by the inverse of the cumulative
    distribution, from the row's own generator: what other rows do changes nothing."""
    if temperature <= 0:
        return logits.argmax(-1)
    sums = torch.softmax(logits / temperature, -1).cumsum(-1)
    at = torch.tensor([[draw.random()] for draw in draws], dtype=sums.dtype, device=sums.device) * sums[:, -1:]
    return torch.searchsorted(sums, at, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy().copy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Torch's several ways of saying that memory is full become one."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemory(_TOO_LARGE) from error
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemory(_TOO_LARGE) from error
        raise


_TOO_LARGE = (
    "this does not fit into the machine's memory; "
    "try a smaller train.batch, a smaller data.max_tokens or fewer train.layers"
)
