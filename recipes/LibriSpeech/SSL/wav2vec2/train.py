"""Trains an encoder without transcripts, with wav2vec 2.0 (arXiv 2006.11477), on LibriSpeech.

    python train.py hparams/base.yaml --data_folder=/data/LibriSpeech
    python train.py hparams/base.yaml --data_folder=/data/LibriSpeech --attention_type=regularMHA
    torchrun --nproc_per_node=4 train.py hparams/base.yaml --data_folder=/data/LibriSpeech

Any key on top of the YAML file is a flag. Results: result.json and curves.png in output_folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import speechbrain as sb
from torch import Tensor

from summarymixing_modules.models.ssl.wav2vec2 import Wav2Vec2Output
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.data.audio import load_audio
from summarymixing_modules.training.draws import same_draws
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.codes import ContrastMonitor

load_data = load_audio  # `summarymixing prepare` calls it, too


class Wav2Vec2Brain(SafeBrain):
    """Audio → front end → encoder, some frames hidden → told apart from others, as they were."""

    ranking = {"max_key": "accuracy"}
    architecture_keys = (
        *SafeBrain.architecture_keys,
        "frontend_type",
        "codes",
        "codebooks",
        "code_dim",
    )

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Wav2Vec2Output:
        """Hides, encodes and compares a batch; in evaluations with the same draws every time."""
        batch = batch.to(self.device, non_blocking=True)
        heard_BTF, lengths_B, clean_BTF = self.modules.features.heard_and_clean(
            *batch.sig, self.epoch
        )
        with same_draws(self.device, stage != sb.Stage.TRAIN):
            return self.modules.model(heard_BTF, lengths_B, clean_BTF=clean_BTF)

    def compute_objectives(
        self, predictions: Wav2Vec2Output, batch: Any, stage: sb.Stage
    ) -> Tensor:
        """Contrastive loss and diversity of the codes; the monitors count."""
        self.monitors.append(predictions, stage)
        return predictions.loss

    def make_monitor(self) -> ContrastMonitor:
        """Counts codes, hits and what guessing would hit; warns when a codebook collapses."""
        quantiser = self.model.quantiser
        return ContrastMonitor(quantiser.codebooks, quantiser.codes, self.device)

    def training_state(self) -> dict[str, float]:
        """The quantiser's temperature."""
        return {"temperature": self.model.quantiser.temperature}

    def on_fit_start(self) -> None:
        """Loads the last checkpoint; the quantiser's temperature follows from its step."""
        super().on_fit_start()
        self.model.quantiser.set_step(self.optimizer_step)

    def on_optimizer_step(self) -> None:
        """Lowers the quantiser's temperature."""
        self.model.quantiser.set_step(self.optimizer_step)

    def architecture(self) -> dict[str, Any]:
        """As in the base, with the width that the encoder got where sizes are matched."""
        return {**super().architecture(), **self.model.architecture()}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    data = load_data(recipe.hparams)
    brain = Wav2Vec2Brain.from_recipe(recipe)
    brain.fit_on(data)
    brain.evaluate(data.datasets.valid, **brain.ranking, test_loader_kwargs=data.eval_loader)
    return brain.finish({f"valid_{name}": value for name, value in brain.test_stats.items()})


if __name__ == "__main__":
    run(main)
