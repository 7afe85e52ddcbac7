"""Fine-tunes a pre-trained encoder with CTC on LibriSpeech, or trains a head on a frozen one.

    python train.py hparams/base.yaml --data_folder=/data/LibriSpeech --encoder=my-encoder \\
        --output_folder=results/fine_tuned/my-encoder

The encoder is a bundle of `summarymixing export`, or the output_folder of a training. Any key on
top of the YAML file is a flag: --freeze_encoder=True trains the head only. Results:
result.json and curves.png in output_folder.

Shape suffixes: B batch, T frames, F features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import speechbrain as sb
from speechbrain.nnet.losses import ctc_loss
from speechbrain.nnet.schedulers import LinearWarmupScheduler, NewBobScheduler
from torch import Tensor, nn

from summarymixing_modules.bundles.fine_tuning import start_fine_tuning
from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.models.asr.ctc_search import CTCDecoder
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.ctc_lengths import spellable
from summarymixing_modules.training.data.transcribed import load_transcribed
from summarymixing_modules.training.features import Features
from summarymixing_modules.training.fine_tuning import check_settings
from summarymixing_modules.training.part_rates import Part, PartRates
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.error_rates import TranscriptScore

load_data = load_transcribed  # `summarymixing prepare` calls it, too


class FineTuningBrain(SafeBrain):
    """Audio → features → pre-trained encoder → head → log-probabilities of tokens → CTC.

    The best checkpoints are those with the lowest CER: by words, with an hour of speech or less, a
    model that writes nothing (100 %) would beat first attempts, whose insertions count, too.
    """

    ranking = {"min_key": "CER"}
    headlines = {"test_wer": "WER"}
    architecture_keys = (
        "output_neurons",
        "head_size",
        "head_layers",
        "freeze_encoder",
        "training_steps",
    )

    def compute_forward(self, batch: Any, stage: sb.Stage) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T, V) of a batch and the real frames of each utterance."""
        batch = batch.to(self.device)
        features_BTF, lengths_B = self.modules.features(*batch.sig, self.epoch)
        return self.modules.model(features_BTF, lengths_B)

    def compute_objectives(
        self, predictions: tuple[Tensor, Tensor], batch: Any, stage: sb.Stage
    ) -> Tensor:
        """The CTC loss; in evaluation also decodes and scores."""
        log_probs_BTV, lengths_B = predictions
        share_B = lengths_B / log_probs_BTV.shape[1]
        tokens_BU, token_share_B = batch.tokens
        copies = len(log_probs_BTV) // len(tokens_BU)  # of each utterance, see wav_augment
        tokens_BU, token_share_B = tokens_BU.repeat(copies, 1), token_share_B.repeat(copies)
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

    def make_rates(self) -> PartRates:
        """A rate for the head, and one for the encoder where it is trained."""
        hparams = self.hparams
        parts = {"head": self.part(self.model.output, hparams.lr, hparams.annealing_factor)}
        if not hparams.freeze_encoder:
            encoder, factor = self.model.encoder_parts(), hparams.encoder_annealing_factor
            parts["encoder"] = self.part(encoder, hparams.encoder_lr, factor)
        return PartRates(parts, hparams.opt_class)

    def part(self, module: nn.Module, lr: float, annealing_factor: float) -> Part:
        """A part with its schedule: warm-up and linear decay, or, without a budget, NewBob."""
        steps = self.hparams.training_steps
        if steps is None:
            return Part(module, lr, NewBobScheduler(lr, annealing_factor))
        return Part(module, lr, LinearWarmupScheduler(lr, self.hparams.warmup_steps, steps))

    def architecture(self) -> dict[str, Any]:
        """That of encoder and head, and what the optimizers' states depend on, null included."""
        own = {key: self.option(key) for key in self.architecture_keys}
        return {**self.model.architecture(), **own}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    hparams = recipe.hparams
    check_settings(hparams, recipe.overrides)
    start = start_fine_tuning(hparams)
    data = load_data(hparams)
    hparams["checkpointer"].add_recoverables({"model": start.model, "normalize": start.normalize})
    start.model.transformer.encoder.layerdrop_prob = hparams["layerdrop_prob"]
    augmentation = hparams["wav_augment"], hparams["fea_augment"]
    features = Features(start.features, start.normalize, *augmentation, copies=True)
    modules = {"features": features, "model": start.model}
    brain = FineTuningBrain.from_recipe(recipe, modules=modules, tokenizer=data.tokenizer)
    brain.extra["encoder"] = start.encoder
    brain.fit_on(spellable(brain, data, leave_out=True))
    metrics, real_time_factor = brain.evaluate_all(data.datasets.test, data.eval_loader)
    return brain.finish(metrics, real_time_factor)


if __name__ == "__main__":
    run(main)
