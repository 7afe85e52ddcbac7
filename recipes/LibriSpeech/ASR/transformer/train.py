"""Trains and tests a recogniser with a decoder and CTC on LibriSpeech.

    python train.py hparams/branchformer.yaml --data_folder=/data/LibriSpeech
    python train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech --attention_type=RoPEMHA
    torchrun --nproc_per_node=8 train.py hparams/conformer.yaml --data_folder=/data/LibriSpeech

Any key on top of the YAML file is a flag. Results: result.json and curves.png in output_folder.

Shape suffixes: B batch, T frames, U tokens, D model features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import speechbrain as sb
from speechbrain.nnet.losses import ctc_loss
from speechbrain.utils.distributed import run_on_main
from torch import Tensor
from torch.nn.functional import cross_entropy

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.models.asr.attention_ctc import AttentionCTCOutput
from summarymixing_modules.models.asr.attention_search import make_searcher
from summarymixing_modules.models.asr.language_model import LanguageModel
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.chunks import full_context
from summarymixing_modules.training.ctc_lengths import spellable
from summarymixing_modules.training.data.transcribed import load_transcribed
from summarymixing_modules.training.lm_folder import (
    check_lm_folder,
    load_language_model,
    save_tokenizer,
)
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.error_rates import TranscriptScore
from summarymixing_modules.training.scores.tokens import TokenAccuracy

load_data = partial(load_transcribed, bos_eos=True)  # `summarymixing prepare` calls it, too


class AttentionCTCBrain(SafeBrain):
    """Audio → features → encoder → a CTC head, and a decoder that attends to it.

    Every validation measures ACC, the percentage of tokens that the teacher-forced decoder gets
    right; a search, which gives the error rates, takes longer and is made every
    ``valid_search_interval`` epochs. The best checkpoints are those of the highest ACC, as in
    SpeechBrain's recipes.
    """

    ranking = {"max_key": "ACC"}  # not every epoch has an error rate
    headlines = {"test_wer": "WER"}
    architecture_keys = (
        *SafeBrain.architecture_keys,
        "num_decoder_layers",
        "decoder_attention",
        "decoder_nhead",
    )

    def compute_forward(self, batch: Any, stage: sb.Stage) -> AttentionCTCOutput:
        """Log-probabilities of both heads for a batch, and the encoder's output."""
        batch = batch.to(self.device)
        features_BTF, lengths_B = self.modules.features(*batch.sig, self.epoch)
        chunks = self.option("dynchunktrain_config_sampler", full_context)(stage)
        return self.modules.model(features_BTF, lengths_B, batch.tokens_bos.data, chunks)

    def compute_objectives(
        self, predictions: AttentionCTCOutput, batch: Any, stage: sb.Stage
    ) -> Tensor:
        """λ · CTC + (1 − λ) · cross-entropy of the decoder (Watanabe et al., IEEE JSTSP 2017).

        Each is the sum over an utterance, then the mean over the batch.
        """
        share_B = predictions.lengths_B / predictions.ctc_BTV.shape[1]
        (tokens_BU, token_share_B), targets_BU = batch.tokens, batch.tokens_eos.data
        ctc = ctc_loss(
            predictions.ctc_BTV, tokens_BU, share_B, token_share_B, BLANK_INDEX, "batchmean"
        )
        # Log-probabilities are scores like any: softmax leaves them as they are.
        seq = cross_entropy(
            predictions.seq_BUV.transpose(1, 2),
            targets_BU,
            ignore_index=BLANK_INDEX,
            label_smoothing=self.hparams.label_smoothing,
            reduction="sum",
        )
        weight = self.hparams.ctc_weight
        if stage != sb.Stage.TRAIN:
            self.scores["accuracy"].append(predictions.seq_BUV, targets_BU, BLANK_INDEX)
        if "transcripts" in self.scores:
            rows = self.searcher(predictions.encoded_BTD.float(), share_B)[0]
            texts = self.hparams.tokenizer.texts(rows)
            self.scores["transcripts"].append(batch.id, texts, batch.wrd)
        return weight * ctc + (1 - weight) * seq / len(tokens_BU)

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Any]:
        """The accuracy of the decoder; when it is time for a search, also error rates."""
        due = epoch is not None and epoch % self.hparams.valid_search_interval == 0
        if stage != sb.Stage.TEST and not due:
            return {"accuracy": TokenAccuracy()}
        self.searcher = self.make_searcher(stage == sb.Stage.TEST)
        return {"accuracy": TokenAccuracy(), "transcripts": TranscriptScore(self.error_rate)}

    def make_searcher(self, test: bool) -> Any:
        """The search of a validation or of a test: (encoded_BTD, share_B) → tokens, …"""
        hparams = self.hparams
        return make_searcher(
            self.model,
            hparams.test_beam_size if test else hparams.valid_beam_size,
            hparams.ctc_weight_decode,
            hparams.language_model if test else None,
            hparams.lm_weight,
            hparams.temperature if test else 1.0,
            hparams.lm_temperature,
            hparams.scorer_beam_scale,
            hparams.min_decode_ratio,
            hparams.max_decode_ratio,
        )


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    hparams, language_model = recipe.hparams, None
    if hparams["lm_folder"] is not None:
        check_lm_folder(hparams["lm_folder"])
    data = load_data(hparams)
    # Under one name whatever its type, for the recipe of language models.
    run_on_main(save_tokenizer, [data.tokenizer, Path(hparams["save_folder"])])
    if hparams["lm_folder"] is not None:
        language_model = load_language_model(hparams["lm_folder"], data.tokenizer, LanguageModel)
    brain = AttentionCTCBrain.from_recipe(
        recipe, tokenizer=data.tokenizer, language_model=language_model
    )
    with_ctc = hparams["ctc_weight"] > 0
    brain.fit_on(spellable(brain, data, leave_out=False) if with_ctc else data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    return brain.finish(metrics, real_time_factor)


if __name__ == "__main__":
    run(main)
