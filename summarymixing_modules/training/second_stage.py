"""A second optimizer that goes on where the first one stops, at a constant rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

from speechbrain.utils.logger import get_logger
from torch.optim import Optimizer

from summarymixing_modules.errors import InputError
from summarymixing_modules.training.part_rates import optimizer_of

if TYPE_CHECKING:
    from summarymixing_modules.training.brain import SafeBrain

logger = get_logger(__name__)

_NAME = "second_stage"


@dataclass(frozen=True)
class SecondStage:
    """What follows the first optimizer, as SGD follows Adam in SpeechBrain's AISHELL-1 recipe.

    Both optimizers are there in both stages, and in all checkpoints; which of them is at work
    follows from the number of the epoch alone. The moments of the first one are let go when it has
    done its work, and the second one has none before it begins.

    Attributes:
        after: epochs of the first optimizer.
        opt_class: makes the second one of parameters.
    """

    after: int
    opt_class: Callable[..., Optimizer]

    @classmethod
    def of(cls, hparams: SimpleNamespace, in_parts: bool) -> SecondStage | None:
        """That of a recipe with the keys of ``hparams/second_stage.yaml``; None where it has none.

        Args:
            hparams: of the recipe.
            in_parts: parts of the model have optimizers of their own.

        Raises:
            InputError: they have, or there is no second optimizer.
        """
        after = getattr(hparams, "second_stage_after", None)
        opt_class = getattr(hparams, "second_opt_class", None)
        if after is None:
            return None
        if in_parts:
            raise InputError(
                f"--second_stage_after={after}: here parts of the model have optimizers of their "
                "own, which a second stage cannot follow: give null."
            )
        if opt_class is None:
            raise InputError(
                f"--second_stage_after={after}, and there is no second_opt_class: name "
                "second_stage.yaml among the bases of the YAML file."
            )
        return cls(after, opt_class)

    def begun(self, epoch: int) -> bool:
        """Whether an epoch belongs to the second stage."""
        return epoch > self.after

    def add_optimizer(self, brain: SafeBrain) -> None:
        """Make the second optimizer, of the parameters that the first one has."""
        made = optimizer_of(brain.modules, self.opt_class, brain.remove_vector_weight_decay)
        brain.optimizers_dict[_NAME] = made
        if brain.checkpointer is not None:
            # A run that began without it may go on with it.
            brain.checkpointer.add_recoverable(f"{_NAME}_optimizer", made, optional_load=True)

    def start_epoch(self, epoch: int, optimizers: Mapping[str, Optimizer]) -> None:
        """Let the moments of the first optimizer go, when the second stage has begun."""
        if not self.begun(epoch):
            return
        for name, optimizer in optimizers.items():
            if name != _NAME:
                optimizer.state.clear()
        if epoch == self.after + 1:
            second = optimizers[_NAME]
            rate = second.param_groups[0]["lr"]
            logger.info(f"Epoch {epoch}: {type(second).__name__} goes on, at a rate of {rate:g}.")

    def at_work(self, optimizers: Mapping[str, Optimizer], epoch: int) -> dict[str, Optimizer]:
        """Those of the optimizers that step in an epoch."""
        late = self.begun(epoch)
        return {name: made for name, made in optimizers.items() if (name == _NAME) == late}
