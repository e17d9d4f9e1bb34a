"""What a training takes in memory, part by part, known from shapes alone, before a weight is read.

Elements that the way back needs are counted from the code: torch_functions.py says what each function keeps.
docs/speed.md compares these numbers with measured ones (benchmarks/memory.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.engines.adapter import GROUPS, elements, trained_layers, widths
from tunesmith.engines.base import LoraShape, Precision
from tunesmith.models.architecture import Architecture

HEAD_ROWS, HEAD_WORDS = 256, 6144
"""Predictions and words of the vocabulary whose logits one core holds at one time: they stay in its cache."""
MOST_TOKENS = 512
"""A core takes no more tokens at once, whatever the batch: that bounds memory, and costs no speed."""
SCORES = 2**21
"""Attention scores that exist at one time, so that they stay in the processor's cache."""
FILL = 8192
"""Tokens whose states the lower layers compute between two writes: enough that reading the layers takes little of
the time."""
HEAD_BYTES = 2**28
"""Logits that the mlx engine holds at once, in bytes of float32: 256 MB is 440 positions of Qwen's 152,000 words."""


ROOM_USED = 0.6
"""The part of memory left by the weights that the mlx engine's layers may fill before they are computed twice."""
PROGRAM = {"torch": 500 << 20, "mlx": 300 << 20}
"""Python, the libraries, and what they keep for themselves. Measured: benchmarks/memory.py."""
SLACK = 1.5
"""What is asked for in many sizes, step after step, leaves gaps, and products keep their code: so much more is taken
after a dozen steps. Measured in the same way, on rows of all lengths."""


@dataclass(frozen=True)
class Training:
    """What decides the memory of a training. ``lengths``: tokens of each row of the largest micro-batch; ``learned``:
    how many of these are predicted; ``streamed``: the frozen layers are not kept in memory."""

    engine: str
    precision: Precision
    shape: LoraShape
    lengths: Sequence[int]
    learned: int
    streamed: bool
    cores: int = 1
    """How many take rows of their own; 1 on a graphics processor."""
    limit: int | None = None
    """Bytes that a graphics processor may use."""


@dataclass(frozen=True)
class Needs:
    """Bytes by part. ``largest``: what the largest single buffer is, and its bytes."""

    program: int
    """Python and the libraries, and what they keep for themselves."""
    weights: int
    adapter: int
    """What learns, its gradients and the optimizer's moments."""
    activations: int
    head: int
    filling: int
    """What the frozen layers take beyond program and weights while their states are computed, before the steps."""
    largest: tuple[str, int]

    @property
    def total(self) -> int:
        """The peak: the filling is over when the steps begin."""
        return self.program + self.weights + max(self.filling, self.adapter + self.activations + self.head)


def needs(arch: Architecture, training: Training) -> Needs:
    """What ``training`` takes of a model of that shape."""
    size = 2 if training.precision == "bf16" else 4
    layers = len(trained_layers(arch, training.shape))
    ends = arch.vocabulary * arch.width * size
    copies = 1 if arch.tied else 2
    layer = arch.parameters * size // arch.layers - copies * ends // arch.layers
    weights = (layers if training.streamed else arch.layers) * layer + copies * ends
    parts = (
        _torch(arch, training, layers, size)
        if training.engine == "torch"
        else _mlx(arch, training, layers, size, weights)
    )
    rows = min(training.learned, HEAD_ROWS if training.engine == "torch" else HEAD_BYTES // 4 // arch.vocabulary)
    words = _words(arch, training) if training.engine == "torch" else arch.vocabulary
    matrix = 2 * arch.mlp_width * arch.width * size
    buffers = [(ends, "the embedding"), (matrix, "the matrix of an MLP"), (4 * rows * words, "the logits")]
    most, name = max(buffers)
    return Needs(
        program=PROGRAM[training.engine],
        weights=weights,
        adapter=parts.adapter * layers,
        activations=int(SLACK * parts.activations),
        head=int(SLACK * parts.head * rows),
        # Of a layer that is read, one matrix is there twice; states go in, come out, and are copied for the disk.
        filling=layer + matrix + 3 * FILL * arch.width * size if training.streamed else 0,
        largest=(name, most),
    )


@dataclass(frozen=True)
class Writing:
    """Bytes that answers take: the program with all weights, and each text that is written beside others."""

    whole: int
    text: int


def writing(arch: Architecture, engine: str, precision: Precision, tokens: int) -> Writing:
    """What it takes to write texts of so many ``tokens`` each, the prompt included."""
    size = 2 if precision == "bf16" else 4
    cache = 2 * arch.layers * arch.kv_heads * arch.head_dim
    reading = 3 * arch.mlp_width + 6 * arch.width  # inside one layer, while the prompts are read
    text = tokens * (cache + reading) * size + 12 * arch.vocabulary  # and logits, which are sorted through in float32
    return Writing(PROGRAM[engine] + arch.parameters * size, text)


@dataclass(frozen=True)
class _Parts:
    """What differs between engines: bytes of a layer's adapter, of all activations, of each row of logits."""

    adapter: int
    activations: int
    head: int


def _torch(arch: Architecture, training: Training, layers: int, size: int) -> _Parts:
    tokens, cores = _on_a_core(training), min(training.cores, len(training.lengths))
    passing = 6 * arch.mlp_width + 6 * arch.width  # inside one layer, on the way there and back
    square = max(training.lengths) ** 2
    scores = 4 * max(arch.heads // arch.kv_heads * square, min(SCORES, arch.heads * square)) + square  # and the mask
    activations = cores * (tokens * (layers * _kept_by_torch(arch, training.shape) + passing) + scores) * size
    adapter = _stacked(arch, training.shape, 16 + cores * 2 * size)
    return _Parts(adapter, activations, training.cores * _words(arch, training) * (4 + 2 * size))


def _words(arch: Architecture, training: Training) -> int:
    """Words whose logits one core holds; a graphics processor takes all of them."""
    return arch.vocabulary if training.cores == 1 else min(HEAD_WORDS, arch.vocabulary)


def _stacked(arch: Architecture, shape: LoraShape, each: int) -> int:
    """Bytes of a layer's adapter as the torch engine holds it: modules of one input are stacked, and where b of one
    meets a of another there are zeros; ``each``: bytes of an element, and 4 for the mask of b."""
    total = 0
    for group in GROUPS.values():
        if taken := [name for name in group if name in shape.modules]:
            ranks = shape.rank * len(taken)
            total += each * ranks * widths(arch, taken[0])[0]
            total += (each + 4) * ranks * sum(widths(arch, name)[1] for name in group)
    return total


def _on_a_core(training: Training) -> int:
    """Tokens that one core computes at once."""
    total, longest = sum(training.lengths), max(training.lengths)
    if training.cores == 1:
        return total
    return max(longest, min(MOST_TOKENS, -(-total // training.cores)))


def _kept_by_torch(arch: Architecture, shape: LoraShape) -> int:
    """Elements that one token leaves in one trained layer for the way back."""
    heads, keys = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
    modules = set(shape.modules)
    inputs = arch.width * bool(modules & {"q_proj", "k_proj", "v_proj"}) + heads * ("o_proj" in modules)
    inputs += arch.width * bool(modules & {"gate_proj", "up_proj"}) + arch.mlp_width * ("down_proj" in modules)
    kept = 2 * arch.width + heads + 2 * keys + 2 * arch.mlp_width  # both norms' inputs; q, k, v; gate and up
    kept += inputs * (2 if shape.dropout else 1)  # and the mask of what was dropped
    kept += heads + keys if arch.qk_norm else 0
    return kept + (2 * arch.width if arch.sandwich_norms else 0)


def _mlx(arch: Architecture, training: Training, layers: int, size: int, weights: int) -> _Parts:
    rows, length = len(training.lengths), max(training.lengths)
    kept = kept_by_mlx(arch, layers, rows, length, size)
    if recomputes(kept, training.limit and training.limit - weights):
        kept = kept // layers + layers * rows * length * arch.width * size
    return _Parts((20 + size) * elements(arch, training.shape) // layers, kept, 12 * arch.vocabulary)


def kept_by_mlx(arch: Architecture, layers: int, rows: int, length: int, size: int) -> int:
    """About what the way back needs of ``layers`` trained layers when nothing is recomputed, in bytes.

    A token leaves about 8 vectors of the model's width, 4 of the MLP's, 4 of the heads' together, and a
    row of attention for each head, before and after the softmax (MLX's gradient does not fuse it);
    ``size`` is bytes per element.
    """
    token = 8 * arch.width + 4 * arch.mlp_width + arch.heads * (4 * arch.head_dim + 2 * length)
    return layers * rows * length * token * size


def recomputes(kept: int, room: int | None) -> bool:
    """Whether mlx's layers run twice (a third more work) because their insides do not fit beside the weights."""
    return room is not None and kept > ROOM_USED * room
