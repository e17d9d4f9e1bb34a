"""The merged model as a quantized MLX folder, without MLX: it can be made on any machine.

The folder is what ``mlx_lm.convert --quantize`` makes of the merged Hugging Face folder, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tunesmith.errors import ModelError
from tunesmith.export.hf_folder import OnProgress, decoder_config, export_folder, write_shards
from tunesmith.export.weights import Weights, computed_ahead, spans
from tunesmith.files import write_json
from tunesmith.models.ggml import TORCH_NAMES, narrow, widen
from tunesmith.models.safetensors_file import Tensor

SHARD_BYTES = 2_000_000_000
"""Smaller than mlx-lm's 5 GB: a ninth of a shard, its scales and biases, waits in memory."""
BITS, GROUPS = (2, 4, 8), (32, 64, 128)
_SMALLEST_SCALE = np.float32(1e-7)

Quantized = tuple[np.ndarray, np.ndarray, np.ndarray]


def write_mlx(
    weights: Weights,
    base: Path,
    target: Path,
    *,
    bits: int = 4,
    group: int = 64,
    on_progress: OnProgress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the merged model as an MLX folder, whole or not at all.

    As in mlx-lm, weights are first rounded to the dtype that config.json names, and every matrix is
    quantized whose columns are a multiple of ``group``, embedding and head too. Raises `ModelError`
    for other bits or groups than `BITS` and `GROUPS`, or a weight that does not fit into the dtype;
    `StorageError` when ``target`` cannot be written or is not ours to replace.
    """
    if bits not in BITS or group not in GROUPS:
        raise ModelError(f"MLX folders are made with bits of {BITS} and groups of {GROUPS}, not {bits} and {group}")
    config = decoder_config(base)
    named = config.pop("dtype", None)
    torch_name = config.get("torch_dtype") or named
    dtype = next((d for d, name in TORCH_NAMES.items() if name == torch_name), weights.main_dtype())
    config["torch_dtype"] = TORCH_NAMES[dtype]
    config["quantization"] = config["quantization_config"] = {"group_size": group, "bits": bits, "mode": "affine"}
    tensors: list[Tensor] = []
    for name in weights.names():
        shape = weights.shape(name)
        if len(shape) == 2 and shape[1] % group == 0:
            tensors += _Matrix(weights, name, dtype, bits, group).tensors()
        else:
            tensors.append(_plain(weights, name, dtype))
    with export_folder(base, target) as folder:
        write_shards(folder, tensors, shard_bytes, {"format": "mlx"}, on_progress)
        write_json(folder / "config.json", dict(sorted(config.items())))


def _plain(weights: Weights, name: str, dtype: str) -> Tensor:
    shape = weights.shape(name)
    return Tensor(name, dtype, shape, lambda: (narrow(weights.rows(name, *span), dtype, name) for span in spans(shape)))


class _Matrix:
    """One matrix as three tensors. They are made together and written one after another: the codes come
    first, as the writer puts wide items first, and scales and biases are kept until their turn."""

    def __init__(self, weights: Weights, name: str, dtype: str, bits: int, group: int) -> None:
        self.weights, self.name, self.dtype, self.bits, self.group = weights, name, dtype, bits, group
        self.kept: dict[str, list[np.ndarray]] = {"scales": [], "biases": []}

    def tensors(self) -> list[Tensor]:
        rows, columns = self.weights.shape(self.name)
        module, few = self.name.removesuffix(".weight"), (rows, columns // self.group)
        return [
            Tensor(self.name, "U32", (rows, columns * self.bits // 32), self._codes),
            *(Tensor(f"{module}.{part}", self.dtype, few, lambda part=part: self.kept.pop(part)) for part in self.kept),
        ]

    def _codes(self) -> Iterator[np.ndarray]:
        for codes, scales, biases in computed_ahead(self._piece, spans(self.weights.shape(self.name))):
            self.kept["scales"].append(scales)
            self.kept["biases"].append(biases)
            yield codes

    def _piece(self, span: tuple[int, int]) -> Quantized:
        values = widen(narrow(self.weights.rows(self.name, *span), self.dtype, self.name))
        codes, scales, biases = quantize(values, self.bits, self.group)
        return codes, narrow(scales, self.dtype, self.name), narrow(biases, self.dtype, self.name)


def quantize(values: np.ndarray, bits: int, group: int) -> Quantized:
    """``mx.quantize`` in affine mode, as its CPU code computes it: float32 [rows, columns] becomes
    uint32 [rows, columns * bits / 32] and float32 scales and biases [rows, columns / group], with
    values = scale * code + bias; the lowest bits of a uint32 are the first column.

    The end of a group's range that is further from zero is met exactly, and so is zero.
    """
    rows, most = len(values), np.float32((1 << bits) - 1)
    groups = values.reshape(-1, group)
    low, high = groups.min(axis=1), groups.max(axis=1)
    from_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / most, _SMALLEST_SCALE)
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, high)
    steps = np.rint(edge / scale)
    flat = steps == 0
    scale = np.where(flat, scale, edge / np.where(flat, np.float32(1), steps))
    bias = np.where(flat, np.float32(0), edge)
    codes = groups - bias[:, None]
    codes /= scale[:, None]
    np.rint(codes, out=codes)
    np.clip(codes, 0, most, out=codes)
    packed = _pack(codes.astype(np.uint8).reshape(rows, -1), bits)
    return packed, scale.reshape(rows, -1), bias.reshape(rows, -1)


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes of ``bits`` bits, one a byte, side by side in little-endian uint32."""
    each = 8 // bits
    packed = codes[:, ::each].copy()
    for i in range(1, each):
        packed |= codes[:, i::each] << (bits * i)
    return packed.view("<u4")
