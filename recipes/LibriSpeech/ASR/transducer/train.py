"""Trains and tests a streaming transducer (arXiv 1211.3711, arXiv 2409.07165) on LibriSpeech.

    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech
    torchrun --nproc_per_node=4 train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech
    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech \
        --test_only --streaming_matrix=True

The last command decodes the test sets at every chunk size and left context. Any key on top of the
YAML file is a flag. Results: result.json, curves.png and streaming_matrix_* in output_folder.

Shape suffixes: B batch, T frames, U tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import speechbrain as sb
from speechbrain.nnet.losses import ctc_loss
from speechbrain.utils.distributed import run_on_main
from torch import Tensor

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.models.asr.recurrent_language_model import RecurrentLanguageModel
from summarymixing_modules.models.asr.transducer import TransducerOutput
from summarymixing_modules.models.asr.transducer_loss import transducer_loss
from summarymixing_modules.models.asr.transducer_search import BoundedBeamSearcher
from summarymixing_modules.models.encoder_choice import require_chunks
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.ctc_lengths import spellable
from summarymixing_modules.training.data.transcribed import load_transcribed
from summarymixing_modules.training.lm_folder import (
    check_lm_folder,
    load_language_model,
    save_tokenizer,
)
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.error_rates import TranscriptScore
from summarymixing_modules.training.streaming_matrix import streaming_matrices

load_data = load_transcribed  # `summarymixing prepare` calls it, too


class TransducerBrain(SafeBrain):
    """Audio → features → encoder, predictor and joiner → scores of the next token or blank."""

    ranking = {"min_key": "WER"}
    headlines = {"test_wer": "WER"}

    def compute_forward(self, batch: Any, stage: sb.Stage) -> TransducerOutput:
        """Scores of every frame after every number of tokens."""
        batch = batch.to(self.device)
        features_BTF, lengths_B = self.modules.features(*batch.sig, self.epoch)
        chunks = self.hparams.dynchunktrain_config_sampler(stage)
        return self.modules.model(features_BTF, lengths_B, batch.tokens.data, chunks)

    def compute_objectives(
        self, predictions: TransducerOutput, batch: Any, stage: sb.Stage
    ) -> Tensor:
        """(1 − w) · transducer, the mean over utterances, + w · CTC; in evaluation also scores.

        w is ``ctc_weight`` in the first ``ctc_epochs`` epochs, afterwards and in evaluation 0.
        """
        tokens_BU, token_share_B = batch.tokens
        token_lengths_B = (token_share_B * tokens_BU.shape[1]).round().long()
        lengths_B = predictions.lengths_B
        loss = transducer_loss(
            predictions.logits_BTUV, tokens_BU, lengths_B, token_lengths_B
        ).mean()
        if stage != sb.Stage.TRAIN:
            texts = self.hparams.tokenizer.texts(self.search(predictions.encoded_BTD, lengths_B))
            self.scores["transcripts"].append(batch.id, texts, batch.wrd)
            return loss
        # Also when its weight is 0: DDP waits for gradients of every parameter.
        log_probs_BTV, reduction = predictions.ctc_log_probs_BTV, self.hparams.ctc_reduction
        share_B = lengths_B / log_probs_BTV.shape[1]
        ctc = ctc_loss(log_probs_BTV, tokens_BU, share_B, token_share_B, BLANK_INDEX, reduction)
        weight = self.hparams.ctc_weight if self.epoch <= self.hparams.ctc_epochs else 0.0
        return (1 - weight) * loss + weight * ctc

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Any]:
        """Error rates of transcripts: greedy ones while validating, then by the beam asked for."""
        hparams, self.search = self.hparams, self.model.greedy
        if stage == sb.Stage.TEST and hparams.test_beam_size > 1:
            beam = BoundedBeamSearcher(
                self.model,
                hparams.test_beam_size,
                hparams.max_expansions,
                hparams.language_model,
                hparams.lm_weight,
                **hparams.test_beam_options,
            )
            self.search = beam.search
        return {"transcripts": TranscriptScore(self.error_rate)}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    hparams, language_model = recipe.hparams, None
    for flag in ("streaming", "streaming_matrix"):
        if hparams[flag]:
            require_chunks(hparams["transformer"].encoder, f"--{flag}=True")
    if hparams["lm_folder"] is not None:
        check_lm_folder(hparams["lm_folder"])
    data = load_data(hparams)
    # Under one name whatever its type, for the recipe of language models.
    run_on_main(save_tokenizer, [data.tokenizer, Path(hparams["save_folder"])])
    if hparams["lm_folder"] is not None:
        language_model = load_language_model(
            hparams["lm_folder"], data.tokenizer, RecurrentLanguageModel
        )
    brain = TransducerBrain.from_recipe(
        recipe, tokenizer=data.tokenizer, language_model=language_model
    )
    with_ctc = hparams["ctc_weight"] > 0 and hparams["ctc_epochs"] > 0
    brain.fit_on(spellable(brain, data, leave_out=False) if with_ctc else data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    if hparams["streaming_matrix"]:
        sizes, contexts = hparams["matrix_chunk_sizes"], hparams["matrix_left_contexts"]
        brain.extra["streaming_matrix"] = streaming_matrices(brain, data, sizes, contexts)
    return brain.finish(metrics, real_time_factor)


if __name__ == "__main__":
    run(main)
