"""``[train]``: how the adapter learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.settings.section import Section

Module = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Tracker = Literal["tensorboard", "trackio", "wandb"]


class LoraSettings(Section):
    rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the update: how much can be learned, and how large the adapter gets."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the update's inputs set to zero while training."""
    modules: Annotated[tuple[Module, ...], Field(min_length=1)] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # fmt: skip
    """Which projections of a layer learn."""


class TrainSettings(Section):
    epochs: Annotated[int, Field(ge=1)] = 3
    """How often every row is seen."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after that many optimizer steps instead of after epochs."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Rows in an optimizer step."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Rows computed at once; less than batch saves memory and changes nothing else. On a CPU the torch engine takes few
    at once by itself."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Gradients longer than that are shortened to it; 0: never."""
    layers: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    """Train the top k layers, or "all"."""
    lora: LoraSettings = LoraSettings()
    """The shape of the adapter."""
    prefix: Literal["auto", "off"] = "auto"
    """Compute the layers below the trained ones once for each row and keep that on disk, where it saves time."""
    validate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between validations, each with a checkpoint that is kept; empty: ten in a run."""
    fit: Literal["check", "take", "off"] = "check"
    """Before training, see whether it fits into memory, by an estimate and one real step; where it does not, "check"
    says what would, "take" takes it. "off" does not look."""
    save_minutes: Annotated[float, Field(gt=0)] = 2.0
    """A crash loses at most that many minutes."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after that many validations without a better loss; empty: never."""
    seed: int = 0
    """Draws another adapter to start from and another order of rows."""
    trackers: tuple[Tracker, ...] = ()
    """Where the numbers go while it runs, beside progress.jsonl: "tensorboard" (files in the run folder), "trackio",
    "wandb"."""
