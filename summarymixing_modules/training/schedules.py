"""Learning rates and optimizers of new settings, at the step that a run has reached."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from summarymixing_modules.errors import InputError

Schedule = Any  # SpeechBrain's have no base,
_SCHEDULES = "speechbrain.nnet.schedulers"  # but one module


class ConfiguredRates:
    """Schedules and settings of optimizers as the YAML file makes them, before a checkpoint's are.

    Loading a checkpoint brings back the peak rate, warm-up and budget of its schedules, and weight
    decay and betas of its optimizers: right for the same settings, wrong for changed ones.

    Args:
        recoverables: of the checkpointer, with optimizers, nothing loaded.
    """

    def __init__(self, recoverables: Mapping[str, Any]) -> None:
        self._schedules = {
            name: copy.deepcopy(schedule)
            for name, schedule in recoverables.items()
            if type(schedule).__module__ == _SCHEDULES
        }
        self._groups = {
            name: [_settings(group) for group in optimizer.param_groups]
            for name, optimizer in recoverables.items()
            if isinstance(optimizer, torch.optim.Optimizer)
        }

    def restore(self, recoverables: Mapping[str, Any], steps: int) -> None:
        """Give recoverables that were loaded the settings of the YAML file.

        Args:
            recoverables: as before.
            steps: optimizer steps that have been made.

        Raises:
            InputError: a schedule whose rate at a step cannot be told.
        """
        for name, schedule in self._schedules.items():
            loaded = recoverables[name]
            _replay(schedule, loaded, steps)
            vars(loaded).update(vars(schedule))
        for name, groups in self._groups.items():
            for group, settings in zip(recoverables[name].param_groups, groups, strict=True):
                group.update(settings)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _replay(schedule: Schedule, loaded: Schedule, steps: int) -> None:
    """Bring a new schedule to where a loaded one is: by its steps, or by the losses it has seen."""
    arguments = list(inspect.signature(schedule).parameters)
    if arguments == ["opt"]:
        optimizer = torch.optim.SGD([torch.zeros(())], lr=0.0)
        for _ in range(steps):
            schedule(optimizer)
    elif arguments == ["metric_value"]:
        for value in loaded.metric_values:
            schedule(value)
    elif arguments != ["opt", "num_updates"]:  # those know nothing but the number of the step
        raise InputError(
            f"--resume_with_changes=True: a {type(schedule).__name__} cannot be taken up at a step "
            "with other settings: give another --output_folder."
        )
