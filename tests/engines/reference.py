"""What every engine must agree with: transformers' model, peft's LoRA, torch's AdamW, in float32."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.engines.base import Batch, LoraShape, StepResult, StepSettings


def base_model(folder: Path) -> Any:
    """transformers' own model of a folder, plain attention, float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


_plain = functools.cache(base_model)  # for reading only: peft changes the model it is given


def base_logits(folder: Path, ids: Sequence[int]) -> np.ndarray:
    """float32 [length, vocabulary]."""
    return _logits(_plain(folder), ids)


def greedy(folder: Path, prompt: Sequence[int], new: int, stop: int) -> list[int]:
    """transformers' greedy continuation of one prompt alone, the stop id left out."""
    import torch

    model = _plain(folder)
    out = model.generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=new,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=0,
    )
    ids = out[0, len(prompt) :].tolist()
    return ids[: ids.index(stop)] if stop in ids else ids


def write_adapter(folder: Path, base: Path, shape: LoraShape, arrays: dict[str, np.ndarray]) -> Path:
    """The two files of an adapter, as peft reads them."""
    from safetensors.numpy import save_file

    layers = _layers(base)
    first = 0 if shape.layers is None else layers - shape.layers
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": shape.dropout,
        "target_modules": list(shape.modules),
        "layers_to_transform": list(range(first, layers)),
        "bias": "none",
        "base_model_name_or_path": str(base),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(arrays, folder / "adapter_model.safetensors")
    return folder


def peft_logits(base: Path, adapter: Path, ids: Sequence[int]) -> np.ndarray:
    """Logits of the base with an adapter folder on it, loaded by peft."""
    from peft import PeftModel

    with _peft_quiet():
        return _logits(PeftModel.from_pretrained(base_model(base), adapter).eval(), ids)


class Reference:
    """A training run: the same steps as `Engine.step`, by other people's code."""

    def __init__(self, base: Path, shape: LoraShape, arrays: dict[str, np.ndarray]):
        import torch
        from peft import LoraConfig, get_peft_model

        layers = _layers(base)
        config = LoraConfig(
            r=shape.rank,
            lora_alpha=int(shape.alpha),
            target_modules=list(shape.modules),
            layers_to_transform=None if shape.layers is None else list(range(layers - shape.layers, layers)),
        )
        with _peft_quiet():
            self.model: Any = get_peft_model(base_model(base), config)
        self._weights = {
            name.replace(".default", ""): weight
            for name, weight in self.model.named_parameters()
            if weight.requires_grad
        }
        if self._weights.keys() != arrays.keys():
            raise ValueError(f"peft names other arrays: {sorted(self._weights.keys() ^ arrays.keys())}")
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(torch.from_numpy(arrays[name]))
        self._optimizer = torch.optim.AdamW(self._weights.values())

    def step(self, micro_batches: Sequence[Batch], settings: StepSettings) -> StepResult:
        import torch

        tokens = sum(batch.learned for batch in micro_batches)
        self._optimizer.zero_grad()
        loss = 0.0
        for batch in micro_batches:
            share = self._nll(batch).sum() / tokens
            share.backward()
            loss += share.item()
        norm = torch.nn.utils.clip_grad_norm_(self._weights.values(), settings.clip or float("inf"))
        for group in self._optimizer.param_groups:
            group.update(lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self._optimizer.step()
        return StepResult(loss, norm.item(), tokens)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: weight.detach().numpy().copy() for name, weight in self._weights.items()}

    def _nll(self, batch: Batch) -> Any:
        import torch

        ids, learn = torch.from_numpy(batch.ids).long(), torch.from_numpy(batch.learn)
        attention = torch.arange(ids.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
        logits = self.model(input_ids=ids, attention_mask=attention.long()).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return nll[learn[:, 1:]]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: on tiny models and busy cores its threads wait for each other, 7 times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def _peft_quiet() -> Iterator[None]:
    """peft 0.21 asks transformers 5 for an attribute by its old name; all other warnings are errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def _layers(base: Path) -> int:
    return int(json.loads((base / "config.json").read_text())["num_hidden_layers"])


def _logits(model: Any, ids: Sequence[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0].float().numpy()
