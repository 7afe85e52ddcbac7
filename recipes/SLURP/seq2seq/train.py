"""Trains and tests a model that writes the meaning of speech on SLURP: scenario, action, entities.

    python train.py hparams/branchformer.yaml --data_folder=/data/slurp
    python train.py hparams/branchformer.yaml --data_folder=/data/slurp --attention_type=RoPEMHA
    torchrun --nproc_per_node=4 train.py hparams/branchformer.yaml --data_folder=/data/slurp

Any key on top of the YAML file is a flag. Results: result.json, curves.png and predictions.jsonl in
output_folder.

Shape suffixes: B batch, T frames, U tokens, D model features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import speechbrain as sb
from speechbrain.nnet.losses import ctc_loss
from torch import Tensor
from torch.nn.functional import cross_entropy

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.models.asr.attention_ctc import AttentionCTCOutput
from summarymixing_modules.models.asr.attention_search import make_searcher
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.ctc_lengths import spellable
from summarymixing_modules.training.data.semantics import load_semantics
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.error_rates import TranscriptScore
from summarymixing_modules.training.scores.meanings import MeaningScore
from summarymixing_modules.training.scores.tokens import TokenAccuracy

load_data = load_semantics  # `summarymixing prepare` calls it, too


class MeaningBrain(SafeBrain):
    """Audio → features → encoder → a decoder that writes the meaning as text, and a CTC head.

    Every validation measures ACC, the percentage of tokens that the teacher-forced decoder gets
    right, and every ``valid_search_interval`` epochs what it writes in a search. The error rates
    are those of the text form.
    """

    ranking = {"max_key": "ACC"}  # not every epoch has another score
    headlines = {"test_wer": "WER", "test_slu_f1": "slu_f1"}
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
        return self.modules.model(features_BTF, lengths_B, batch.tokens_bos.data)

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
        if "meanings" in self.scores:
            rows = self.searcher(predictions.encoded_BTD.float(), share_B)[0]
            texts = self.hparams.data.tokenizer.texts(rows)
            self.scores["transcripts"].append(batch.id, texts, batch.wrd)
            self.scores["meanings"].append(batch.id, texts)
        return weight * ctc + (1 - weight) * seq / len(tokens_BU)

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Any]:
        """The accuracy of the decoder; when it is time for a search, also what it writes."""
        due = epoch is not None and epoch % self.hparams.valid_search_interval == 0
        if stage != sb.Stage.TEST and not due:
            return {"accuracy": TokenAccuracy()}
        self.searcher = self.make_searcher(stage == sb.Stage.TEST)
        return {
            "accuracy": TokenAccuracy(),
            "transcripts": TranscriptScore(self.error_rate),
            "meanings": MeaningScore(self.hparams.data.references),
        }

    def make_searcher(self, test: bool) -> Any:
        """The search of a validation or of a test: (encoded_BTD, share_B) → tokens, …

        It is patient, as answers differ in length.
        """
        hparams = self.hparams
        return make_searcher(
            self.model,
            hparams.test_beam_size if test else hparams.valid_beam_size,
            hparams.ctc_weight_decode,
            temperature=hparams.temperature if test else 1.0,
            scorer_beam_scale=hparams.scorer_beam_scale,
            min_decode_ratio=hparams.min_decode_ratio,
            max_decode_ratio=hparams.max_decode_ratio,
            patient=True,
        )


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    data = load_data(recipe.hparams)
    brain = MeaningBrain.from_recipe(recipe, data=data, tokenizer=data.tokenizer)
    with_ctc = recipe.hparams["ctc_weight"] > 0
    brain.fit_on(spellable(brain, data, leave_out=False) if with_ctc else data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    return brain.finish(metrics, real_time_factor)


if __name__ == "__main__":
    run(main)
