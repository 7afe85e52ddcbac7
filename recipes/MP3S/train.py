"""Trains and tests a probe on an encoder, frozen or tuned: one task of MP3S (arXiv 2308.14456).

    python train.py hparams/librispeech_asr_bilstm.yaml --encoder=ENCODER --data_folder=LIBRISPEECH
    python train.py hparams/iemocap_linear.yaml --encoder=ENCODER --data_folder=IEMOCAP --fold=1

Any key on top of the YAML file is a flag. Results: result.json and curves.png in output_folder.

A task is to write a transcript, to name a class, or to tell speakers apart: a Brain for each.

Shape suffixes: B batch, T frames, V vocabulary, N classes, E embedding, K training speakers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import speechbrain as sb
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper, ctc_loss
from speechbrain.utils.distributed import run_on_main
from torch import Tensor

from summarymixing_modules.data.labels import UNSEEN
from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.models.asr.ctc_search import CTCDecoder
from summarymixing_modules.probing.encoder import (
    TUNED,
    TunedEncoder,
    encode,
    frozen_encoder,
    tuned_encoder,
    unchanged,
)
from summarymixing_modules.probing.folds import train_folds
from summarymixing_modules.probing.probe import Probe, probe_rates
from summarymixing_modules.probing.tasks import TASKS, find_task, number_of_outputs
from summarymixing_modules.probing.verification import SpeakerErrors, TrialScore
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.class_loss import class_loss
from summarymixing_modules.training.ctc_lengths import spellable
from summarymixing_modules.training.data.audio import AudioData
from summarymixing_modules.training.data.transcribed import ASRData
from summarymixing_modules.training.fine_tuning import check_frozen
from summarymixing_modules.training.part_rates import PartRates
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.classes import ClassScore
from summarymixing_modules.training.scores.error_rates import TranscriptScore

ARCHITECTURE = ("task", "probe", "head_options", "outputs", "encoder_digest", "freeze_encoder")


class TranscriptBrain(SafeBrain):
    """Audio → encoder → weighted sum of its layers → log-probabilities of tokens → CTC."""

    ranking = {"min_key": "WER"}
    headlines = {"test_wer": "WER"}
    architecture_keys = ARCHITECTURE

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, V) of a batch and the real frames of each utterance."""
        hidden = encode(self.modules.encoder, batch.to(self.device))
        return self.modules.model(hidden).float(), hidden.lengths_B

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
        self.decode = CTCDecoder(self.hparams.data.tokenizer, beam_size, options)
        return {"transcripts": TranscriptScore(self.error_rate)}

    def make_rates(self) -> PartRates:
        """A rate for the head, one for the layer weights, and one for a tuned encoder."""
        return probe_rates(self.modules, vars(self.hparams))


class ClassBrain(SafeBrain):
    """Audio → encoder → weighted sum of its layers → log-probabilities of classes."""

    ranking = {"max_key": "ACC"}
    headlines = {"test_accuracy": "ACC"}
    architecture_keys = ARCHITECTURE

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Tensor:
        """Log-probabilities (B, N)."""
        hidden = encode(self.modules.encoder, batch.to(self.device))
        return self.modules.model(hidden).float().log_softmax(dim=-1)

    def compute_objectives(self, predictions: Tensor, batch: Any, stage: sb.Stage) -> Tensor:
        """The mean cross-entropy; in evaluation also scores."""
        targets_B1, training = batch.targets.data, stage == sb.Stage.TRAIN
        if not training:
            self.scores["classes"].append(batch.id, batch.wav, [predictions], targets_B1)
        return class_loss([predictions], targets_B1, self.option("label_smoothing", 0.0))

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Any]:
        """What was predicted, and how much of it is right."""
        data = self.hparams.data
        return {"classes": ClassScore(data.labels, data.annotations)}

    def make_rates(self) -> PartRates:
        """A rate for the head, one for the layer weights, and one for a tuned encoder."""
        return probe_rates(self.modules, vars(self.hparams))


class SpeakerBrain(SafeBrain):
    """Audio → encoder → weighted sum of its layers → embedding → training speakers.

    Checkpoints are ranked by the share of validation utterances given to a wrong training speaker;
    the test scores trials, by the cosine of two embeddings.
    """

    ranking = {"min_key": "speaker_error"}
    headlines = {"test_eer": "EER", "test_min_dcf": "min_dcf", "scored_trials": "trials"}
    architecture_keys = ARCHITECTURE

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Tensor:
        """Embeddings (B, E)."""
        return self.modules.model(encode(self.modules.encoder, batch.to(self.device)))

    def compute_objectives(self, predictions: Tensor, batch: Any, stage: sb.Stage) -> Tensor:
        """Cross-entropy with an additive angular margin (Xiang et al., arXiv 1906.07317).

        While testing there is none: speakers of trials have no class.
        """
        if stage == sb.Stage.TEST:
            self.scores["trials"].append(batch.id, predictions)
            return predictions.new_zeros(())
        targets_B = batch.targets.data[:, 0]
        cosines_BK = self.model.head.cosines(predictions)
        if stage == sb.Stage.VALID:
            self.scores["speakers"].append(cosines_BK, targets_B)
        known_B = targets_B != UNSEEN
        if not bool(known_B.any()):
            return predictions.new_tensor(float("nan"))
        margin = AdditiveAngularMargin(self.hparams.margin, self.hparams.scale)
        return LogSoftmaxWrapper(margin)(cosines_BK[known_B][:, None], targets_B[known_B][:, None])

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Any]:
        """Errors of the training speakers; in the test, trials."""
        if stage == sb.Stage.TEST:
            return {"trials": TrialScore(self.hparams.data.trials, partial=self.debug)}
        return {"speakers": SpeakerErrors()}

    def make_rates(self) -> PartRates:
        """A rate for the head, one for the layer weights, and one for a tuned encoder."""
        return probe_rates(self.modules, vars(self.hparams))


BRAINS: dict[str, type[SafeBrain]] = {
    "transcripts": TranscriptBrain,
    "classes": ClassBrain,
    "speakers": SpeakerBrain,
}


def load_data(hparams: Mapping[str, Any]) -> AudioData:
    """What a probe trains and tests on; `summarymixing prepare` calls it, too."""
    return TASKS[hparams["task"]].load(hparams)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    hparams = recipe.hparams
    task = find_task(hparams["task"], recipe.overrides)
    check_frozen(hparams, recipe.overrides)
    if hparams.get("fold") == "all":
        return train_folds(main, argv, hparams["output_folder"])
    load_encoder = frozen_encoder if hparams["freeze_encoder"] else tuned_encoder
    encoder = load_encoder(hparams["encoder"], hparams["sample_rate"], hparams["trust_run"])
    data = load_data(hparams)
    outputs, digest = number_of_outputs(data), encoder.digest()
    head = task.head(hparams["probe"], encoder.state_size, outputs, hparams["head_options"])
    modules = {"encoder": encoder, "model": Probe(encoder.num_states, head)}
    hparams["checkpointer"].add_recoverable("model", modules["model"])
    if not hparams["freeze_encoder"]:
        hparams["checkpointer"].add_recoverable("encoder", encoder)
    found = {"data": data, "outputs": outputs, "encoder_digest": digest}
    brain = BRAINS[task.objective].from_recipe(recipe, modules=modules, **found)
    if isinstance(data, ASRData):
        data = spellable(brain, data, leave_out=True, frames_of=encoder.frames)
    brain.fit_on(data)
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    digests = {"before": digest, "after": encoder.digest()}
    if hparams["freeze_encoder"]:
        unchanged(**digests)
    brain.extra |= task.describe(hparams, metrics, brain.model.weighted_sum.shares())
    brain.extra["encoder_digests"] = digests
    result = brain.finish(metrics, real_time_factor)
    if isinstance(encoder, TunedEncoder):
        folder = Path(hparams["output_folder"], TUNED)
        run_on_main(encoder.save, [folder, hparams["name"], result])
    return result


if __name__ == "__main__":
    run(main)
