"""A classifier of utterances: front end, encoder, pooling over time, an output layer for each task.

Shape suffixes: B batch, T frames, F features, D model features, P pooled features, A features of
the attention, N classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.acoustic import AcousticEncoder
from summarymixing_modules.models.describe import describable
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.models.transformer_asr import TransformerASR
from summarymixing_modules.ops.pooling import MIN_VARIANCE, UNSEEN
from summarymixing_modules.ops.summary import masked, utterance_mean


class MeanPooling(nn.Module):
    """The mean of the real frames.

    Args:
        input_size: D.

    Attributes:
        output_size: P = D.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.output_size = input_size

    def forward(self, x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
        """(B, P) from frames; True = padded."""
        return utterance_mean(x_BTD, padding_BT)


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation under a softmax over the real frames, one for each feature.

    Okabe et al., "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech 2018,
    eqs. (3)–(6), with a weight for each feature. (SpeechBrain's normalises by the statistics of a
    batch with its padding, so that an utterance would depend on how long others are.)

    Args:
        input_size: D.
        attention_size: A.

    Attributes:
        output_size: P = 2 D.
    """

    def __init__(self, input_size: int, attention_size: int = 128) -> None:
        super().__init__()
        self.scores = nn.Sequential(
            nn.Linear(input_size, attention_size),
            nn.Tanh(),
            nn.Linear(attention_size, input_size, bias=False),
        )
        self.output_size = 2 * input_size

    def forward(self, x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
        """(B, P) from frames; True = padded."""
        scores_BTD = self.scores(x_BTD).float().masked_fill(padding_BT[..., None], UNSEEN)
        weights_BTD = masked(scores_BTD.softmax(dim=1), padding_BT)
        x_BTD = masked(x_BTD, padding_BT).float()
        mean_BD = (weights_BTD * x_BTD).sum(dim=1)
        variance_BD = (weights_BTD * (x_BTD - mean_BD[:, None]).square()).sum(dim=1)
        return torch.cat([mean_BD, variance_BD.clamp(min=MIN_VARIANCE).sqrt()], dim=-1)


POOLINGS = {"mean": MeanPooling, "attentive": AttentiveStatisticsPooling}


@describable
class ClassifierModel(AcousticEncoder):
    """Features to log-probabilities of classes; one module, so that DDP wraps it once.

    Args:
        frontend: (x_BTF, lengths_B) → (y_BTD, lengths_B), as in models/frontend.py.
        transformer: the encoder; its decoder, if it has one, is not used.
        tasks: names of what is told apart.
        classes: how many classes each has.
        pooling: "mean" or "attentive".
        dropout: of the pooled features.

    Raises:
        InputError: another pooling, or tasks and classes that do not match.
    """

    def __init__(
        self,
        frontend: nn.Module,
        transformer: TransformerASR,
        tasks: Sequence[str],
        classes: Sequence[int],
        pooling: str = "mean",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(frontend, transformer)
        if pooling not in POOLINGS:
            raise InputError(f"--pooling={pooling!r} must be one of {', '.join(POOLINGS)}.")
        _check_tasks(tasks, classes)
        self.pooling = POOLINGS[pooling](self.encoder_size)
        self.dropout = nn.Dropout(dropout)
        self.outputs = nn.ModuleList(
            nn.Linear(self.pooling.output_size, number) for number in classes
        )

    def forward(
        self,
        x_BTF: Tensor,
        lengths_B: Tensor,
        dynchunktrain_config: DynChunkTrainConfig | None = None,
    ) -> list[Tensor]:
        """Scores classes.

        Args:
            x_BTF: features.
            lengths_B: real frames of each utterance.
            dynchunktrain_config: chunk size in frames and left context in chunks.

        Returns:
            log-probabilities (B, N) of every task, in float32.
        """
        x_BTD, lengths_B = self.encode(x_BTF, lengths_B, dynchunktrain_config)
        pooled_BP = self.pooling(x_BTD, lengths_to_padding(lengths_B, x_BTD.shape[1]))
        pooled_BP = self.dropout(pooled_BP)
        return [output(pooled_BP).float().log_softmax(dim=-1) for output in self.outputs]


def _check_tasks(tasks: Sequence[str], classes: Sequence[int]) -> None:
    lists = isinstance(tasks, Sequence) and isinstance(classes, Sequence)
    if not lists or isinstance(tasks, str) or not tasks or len(tasks) != len(classes):
        raise InputError(
            f"--tasks={tasks} and --classes={classes} must be lists of one length: the names of "
            "the tasks, and how many classes each has."
        )
    if len(set(tasks)) < len(tasks):
        raise InputError(f"--tasks={list(tasks)}: a task is named twice.")
    if not all(isinstance(number, int) and number >= 1 for number in classes):
        raise InputError(f"--classes={list(classes)} must be whole numbers from 1 on.")
