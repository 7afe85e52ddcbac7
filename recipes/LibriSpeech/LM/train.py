"""Trains a Transformer language model for the recognisers of ASR/transformer.

    python train.py hparams/transformer.yaml --data_folder=/data/LibriSpeech \\
        --lm_text=/data/librispeech-lm-norm.txt.gz \\
        --tokenizer_file=../ASR/transformer/results/branchformer/SummaryMixing/3407/save/tokenizer.model

Any key on top of the YAML file is a flag. The model comes to output_folder/lm, for --lm_folder.

Shape suffixes: B batch, U tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import speechbrain as sb
from torch import Tensor
from torch.nn.functional import cross_entropy

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.data.text import TextData
from summarymixing_modules.training.lm_folder import export_language_model
from summarymixing_modules.training.recipe.config import load_recipe, run
from summarymixing_modules.training.scores.tokens import Perplexity


class LanguageModelBrain(SafeBrain):
    """Tokens → decoder → scores of the tokens that follow."""

    ranking = {"min_key": "PPL"}
    frame_unit = "tokens"
    architecture_keys = ("d_model", "nhead", "num_layers", "d_ffn", "output_neurons")

    def compute_forward(self, batch: Any, stage: sb.Stage) -> Tensor:
        """Scores (B, U, V) of the tokens that follow."""
        batch = batch.to(self.device)
        return self.modules.model(batch.tokens_bos.data)

    def compute_objectives(self, predictions: Tensor, batch: Any, stage: sb.Stage) -> Tensor:
        """Mean negative log-likelihood of the batch's tokens, end marks included, in nats."""
        targets_BU = batch.tokens_eos.data
        nats = cross_entropy(
            predictions.float().transpose(1, 2),
            targets_BU,
            ignore_index=BLANK_INDEX,
            reduction="sum",
        )
        tokens = (targets_BU != BLANK_INDEX).sum()
        if stage != sb.Stage.TRAIN:
            self.scores["perplexity"].append(nats, tokens)
        return nats / tokens

    def make_scores(self, stage: sb.Stage, epoch: int | None) -> dict[str, Any]:
        """Perplexity over the whole set."""
        return {"perplexity": Perplexity()}

    def batch_frames(self, batch: Any) -> float:
        """Tokens to predict, end marks included."""
        tokens_BU, share_B = batch.tokens_eos
        return float((share_B * tokens_BU.shape[1]).sum())


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs the recipe; returns the content of result.json."""
    recipe = load_recipe(argv, __file__)
    data = TextData(recipe.hparams)
    brain = LanguageModelBrain.from_recipe(recipe)
    brain.fit(
        recipe.hparams["epoch_counter"],
        data.train,
        data.valid,
        train_loader_kwargs=data.train_loader,
        valid_loader_kwargs=data.eval_loader,
    )
    metrics, _ = brain.evaluate_all(data.test, data.eval_loader)
    brain.on_evaluate_start(**brain.ranking)  # also where there is no test
    folder = Path(recipe.hparams["output_folder"])
    brain.extra["lm_folder"] = export_language_model(brain.model, data.tokenizer, folder)
    brain.extra["train_lines"] = len(data.train)
    return brain.finish(metrics)


if __name__ == "__main__":
    run(main)
