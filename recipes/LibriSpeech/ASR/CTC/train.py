"""Trains and tests an acoustic model with CTC (Graves et al., ICML 2006) on LibriSpeech.

    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech
    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech --attention_type=RoPEMHA
    torchrun --nproc_per_node=8 train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech

Any key on top of the YAML file is a flag. Results: result.json and curves.png in output_folder.

Shape suffixes: B batch, T frames, F features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import speechbrain as sb
from speechbrain.nnet.losses import ctc_loss
from torch import Tensor

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.models.asr.ctc_search import CTCDecoder
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.ctc_lengths import spellable
from summarymixing_modules.training.data.transcribed import load_transcribed
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.error_rates import TranscriptScore

load_data = load_transcribed  # `summarymixing prepare` calls it, too


class CTCBrain(SafeBrain):
    """Audio → features → encoder → log-probabilities of tokens → CTC."""

    ranking = {"min_key": "WER"}
    headlines = {"test_wer": "WER"}

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, V) of a batch and the real frames of each utterance."""
        batch = batch.to(self.device)
        features_BTF, lengths_B = self.modules.features(*batch.sig, self.epoch)
        chunks = self.hparams.dynchunktrain_config_sampler(stage)
        return self.modules.model(features_BTF, lengths_B, chunks)

    def compute_objectives(
        self, predictions: tuple[Tensor, Tensor], batch: Any, stage: sb.Stage
    ) -> Tensor:
        """The CTC loss; in evaluation also decodes and scores."""
        log_probs_BTV, lengths_B = predictions
        share_B = lengths_B / log_probs_BTV.shape[1]
        tokens_BU, token_share_B = batch.tokens
        loss = ctc_loss(log_probs_BTV, tokens_BU, share_B, token_share_B, BLANK_INDEX)
        if stage != sb.Stage.TRAIN:
            texts = self.decode(log_probs_BTV, share_B)
            self.scores["transcripts"].append(batch.id, texts, batch.wrd)
        return loss

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Any]:
        """Error rates of transcripts: greedy ones while validating, then by the beam asked for."""
        beam_size = self.hparams.test_beam_size if stage == sb.Stage.TEST else 1
        options = self.hparams.test_beam_options
        self.decode = CTCDecoder(self.hparams.tokenizer, beam_size, options)
        return {"transcripts": TranscriptScore(self.error_rate)}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    data = load_data(recipe.hparams)
    brain = CTCBrain.from_recipe(recipe, tokenizer=data.tokenizer)
    brain.fit_on(spellable(brain, data, leave_out=True))
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    return brain.finish(metrics, real_time_factor)


if __name__ == "__main__":
    run(main)
