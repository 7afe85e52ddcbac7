"""Trains an encoder without transcripts, with BEST-RQ (arXiv 2202.01855), on LibriSpeech.

    python train.py hparams/base.yaml --data_folder=/data/LibriSpeech
    python train.py hparams/base.yaml --data_folder=/data/LibriSpeech --attention_type=RoPEMHA
    torchrun --nproc_per_node=8 train.py hparams/base.yaml --data_folder=/data/LibriSpeech

Any key on top of the YAML file is a flag. Results: result.json and curves.png in output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import speechbrain as sb
from torch import Tensor

from summarymixing_modules.models.ssl.best_rq import BestRQOutput
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.data.audio import load_audio
from summarymixing_modules.training.draws import same_draws
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.codes import CodeMonitor

load_data = load_audio  # `summarymixing prepare` calls it, too


class BestRQBrain(SafeBrain):
    """Audio → features, some of them hidden → encoder → the codes of what is hidden."""

    ranking = {"max_key": "accuracy"}
    architecture_keys = (*SafeBrain.architecture_keys, "codes", "codebooks")

    def compute_forward(self, batch: Any, stage: sb.Stage) -> BestRQOutput:
        """Hides, encodes and predicts a batch; in evaluations with the same draws every time."""
        batch = batch.to(self.device, non_blocking=True)
        heard_BTF, lengths_B, clean_BTF = self.modules.features.heard_and_clean(
            *batch.sig, self.epoch
        )
        with same_draws(self.device, stage != sb.Stage.TRAIN):
            return self.modules.model(heard_BTF, lengths_B, clean_BTF=clean_BTF)

    def compute_objectives(self, predictions: BestRQOutput, batch: Any, stage: sb.Stage) -> Tensor:
        """Cross-entropy of the codes of hidden frames; the monitors count."""
        self.monitors.append(predictions, stage)
        return predictions.loss

    def make_monitor(self) -> CodeMonitor:
        """Counts codes and hits; warns when nearly all targets are one code."""
        return CodeMonitor(self.model.codes, self.device)

    def architecture(self) -> dict[str, Any]:
        """As in the base, with the width that the encoder got where sizes are matched."""
        return {**super().architecture(), **self.model.architecture()}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    data = load_data(recipe.hparams)
    brain = BestRQBrain.from_recipe(recipe)
    brain.fit_on(data)
    brain.evaluate(data.datasets.valid, **brain.ranking, test_loader_kwargs=data.eval_loader)
    return brain.finish({f"valid_{name}": value for name, value in brain.test_stats.items()})


if __name__ == "__main__":
    run(main)
