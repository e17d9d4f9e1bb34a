"""Stand-ins for trackio and wandb: the calls that we make, with the signatures of trackio 0.27 and wandb 0.23."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class TrackioRun:
    def __init__(self, given: dict[str, Any]) -> None:
        self.given, self.logged, self.finished = given, [], False

    def log(self, metrics: dict, step: int | None = None) -> None:
        self.logged.append((step, dict(metrics)))

    def finish(self) -> None:
        self.finished = True


class Trackio(ModuleType):
    def __init__(self) -> None:
        super().__init__("trackio")
        self.__spec__ = ModuleSpec("trackio", None)
        self.runs: list[TrackioRun] = []

    def init(self, project: str, name: str | None = None, group: str | None = None, space_id: str | None = None,
             server_url: str | None = None, space_storage: Any = None, dataset_id: str | None = None,
             bucket_id: str | None = None, config: dict | None = None, resume: str = "never", settings: Any = None,
             private: bool | None = None, embed: bool = True, auto_log_gpu: bool | None = None,
             gpu_log_interval: float = 10.0, webhook_url: str | None = None,
             webhook_min_level: Any = None) -> TrackioRun:  # fmt: skip
        assert resume in ("must", "allow", "never")
        self.runs.append(TrackioRun(locals()))
        return self.runs[-1]


class WandbRun:
    """Keeps what a server would: the steps of a run that is resumed go on behind those it has."""

    def __init__(self, fails_at: int | None, disabled: bool) -> None:
        self.url, self.disabled = "https://wandb.example/runs/1", disabled
        self.step, self.logged, self.summary, self.finished = 0, [], {}, 0
        self._fails_at = fails_at

    def log(self, data: dict, step: int | None = None, commit: bool | None = None) -> None:
        assert step is not None
        assert step >= self.step, "W&B drops a step that is behind"
        if step == self._fails_at:
            raise ConnectionError("the network is gone\nand a second line")
        self.step = step
        self.logged.append((step, dict(data)))

    def finish(self, exit_code: int | None = None, quiet: bool | None = None) -> None:
        self.finished += 1
        self.step += 1


class Wandb(ModuleType):
    def __init__(self, fails_at: int | None = None, disabled: bool = False) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None)
        self.runs: dict[str, WandbRun] = {}
        self.given: dict[str, Any] = {}
        self._how = (fails_at, disabled)

    def init(self, entity: str | None = None, project: str | None = None, dir: Any = None, id: str | None = None,
             name: str | None = None, notes: str | None = None, tags: Any = None, config: Any = None,
             config_exclude_keys: Any = None, config_include_keys: Any = None, allow_val_change: bool | None = None,
             group: str | None = None, job_type: str | None = None, mode: str | None = None, force: bool | None = None,
             reinit: Any = None, resume: Any = None, resume_from: str | None = None, fork_from: str | None = None,
             save_code: bool | None = None, tensorboard: bool | None = None, sync_tensorboard: bool | None = None,
             monitor_gym: bool | None = None, settings: Any = None) -> WandbRun:  # fmt: skip
        assert id
        assert resume in (True, "allow", "never", "must", "auto")
        self.given = locals()
        return self.runs.setdefault(id, WandbRun(*self._how))


def install(monkeypatch: Any, module: ModuleType) -> Any:
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module
