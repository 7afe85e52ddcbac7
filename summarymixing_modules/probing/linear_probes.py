"""Linear probes on hidden states: logistic regressions, and one CTC layer for each state.

Nothing here knows corpora or encoders.

Shape suffixes: N hidden states, B batch, T frames, D features, S utterances, K classes,
M frames of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.probing.states import StateBatch

#: A regression has converged when no partial derivative of its objective is larger.
GRADIENT_TOLERANCE = 1e-4
MAX_ITERATIONS = 2000
#: Of Adam on the CTC layers; falls linearly to a hundredth of it.
CTC_LR = 1e-2
_MIN_DEVIATION = 1e-6


@dataclass(frozen=True)
class LogisticRegression:
    """A fitted multinomial logistic regression on features standardised by the training part.

    ``gradient`` is the largest partial derivative of the objective at the end of the fit.
    """

    mean_D: Tensor
    deviation_D: Tensor
    weight_KD: Tensor
    bias_K: Tensor
    gradient: float

    @property
    def converged(self) -> bool:
        """Whether the fit has come to the optimum."""
        return self.gradient <= GRADIENT_TOLERANCE

    def predict(self, x_SD: Tensor) -> Tensor:
        """The likeliest class of each utterance, (S,)."""
        z_SD = (x_SD.to(self.mean_D) - self.mean_D) / self.deviation_D
        return F.linear(z_SD, self.weight_KD, self.bias_K).argmax(dim=-1)

    def accuracy(self, x_SD: Tensor, classes_S: Tensor) -> float:
        """Share of the utterances whose class is right, in percent."""
        return _percent(self.predict(x_SD) == classes_S.to(self.mean_D.device))


def fit_logistic(x_SD: Tensor, classes_S: Tensor, classes: int) -> LogisticRegression:
    """Minimises -Σ_s log p(class_s | x_s) + ½ ‖W‖², over S, in double precision.

    The objective is strictly convex in W, and the weights begin at 0: the result does not depend
    on any draw. L-BFGS sees all utterances at once.

    Args:
        x_SD: features of the training part.
        classes_S: 0 to K - 1.
        classes: K.
    """
    x_SD, classes_S = x_SD.double(), classes_S.to(x_SD.device)
    mean_D = x_SD.mean(dim=0)
    deviation_D = x_SD.std(dim=0, correction=0)
    deviation_D = torch.where(deviation_D > _MIN_DEVIATION, deviation_D, 1.0)
    z_SD = (x_SD - mean_D) / deviation_D
    weight_KD = z_SD.new_zeros(classes, z_SD.shape[1]).requires_grad_()
    bias_K = z_SD.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight_KD, bias_K],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=GRADIENT_TOLERANCE / 10,
        tolerance_change=0.0,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(z_SD, weight_KD, bias_K), classes_S)
        loss = loss + 0.5 * weight_KD.square().sum() / len(z_SD)
        loss.backward()
        return loss

    optimizer.step(objective)
    objective()
    gradients = (parameter.grad for parameter in (weight_KD, bias_K))
    largest = max(float(gradient.abs().max()) for gradient in gradients if gradient is not None)
    return LogisticRegression(mean_D, deviation_D, weight_KD.detach(), bias_K.detach(), largest)


def majority_accuracy(train_S: Tensor, test_S: Tensor) -> float:
    """Accuracy, in percent, of always answering the most frequent class of the training part."""
    return _percent(test_S == train_S.bincount().argmax())


def _percent(right_S: Tensor) -> float:
    return 100 * float(right_S.double().mean())


class CTCHeads(nn.Module):
    """A standardisation and a linear layer for each hidden state, in one product.

    No head sees another's state or parameters: what one learns does not depend on the others.

    Args:
        mean_ND: of the features over the training frames.
        deviation_ND: their standard deviation.
        vocabulary: V, the blank included.
    """

    mean_ND: Tensor
    scale_ND: Tensor

    def __init__(self, mean_ND: Tensor, deviation_ND: Tensor, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("mean_ND", mean_ND)
        self.register_buffer("scale_ND", 1 / deviation_ND.clamp(min=_MIN_DEVIATION))
        self.weight_NDV = nn.Parameter(mean_ND.new_zeros(*mean_ND.shape, vocabulary))
        self.bias_NV = nn.Parameter(mean_ND.new_zeros(mean_ND.shape[0], vocabulary))

    def forward(self, states_NBTD: Tensor) -> Tensor:
        """Log-probabilities (N, B, T, V)."""
        z_NBTD = states_NBTD.float() - self.mean_ND[:, None, None]
        z_NBTD = z_NBTD * self.scale_ND[:, None, None]
        scores_NBTV = torch.einsum("nbtd,ndv->nbtv", z_NBTD, self.weight_NDV)
        return (scores_NBTV + self.bias_NV[:, None, None]).log_softmax(dim=-1)

    def losses(self, batch: StateBatch) -> Tensor:
        """CTC's loss of every head, (N,): the mean over utterances of the loss per token."""
        log_probs_NBTV = self(batch.states_NBTD)
        heads, utterances = log_probs_NBTV.shape[:2]
        losses_NB = F.ctc_loss(
            log_probs_NBTV.flatten(0, 1).transpose(0, 1),
            batch.tokens_BU.repeat(heads, 1),
            batch.lengths_B.repeat(heads),
            batch.token_lengths_B.repeat(heads),
            blank=BLANK_INDEX,
            reduction="none",
        ).view(heads, utterances)
        return (losses_NB / batch.token_lengths_B).mean(dim=1)


def frame_statistics(batches: Iterable[StateBatch]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (N, D), of the real frames of one or more batches."""
    count, sums, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
    for batch in batches:
        real_BT = ~lengths_to_padding(batch.lengths_B, batch.states_NBTD.shape[2])
        frames_NMD = batch.states_NBTD[:, real_BT].double()
        count += frames_NMD.shape[1]
        sums = sums + frames_NMD.sum(dim=1)
        squares = squares + frames_NMD.square().sum(dim=1)
    mean_ND = sums / count
    variance_ND = (squares / count - mean_ND.square()).clamp(min=0)
    return mean_ND.float(), variance_ND.sqrt().float()


def train_ctc_heads(
    heads: CTCHeads,
    batches: Sequence[StateBatch],
    epochs: int,
    seed: int,
    title: str = "CTC layers",
) -> list[float]:
    """Trains all heads with Adam on batches that are ``alignable``, in a new order every epoch.

    Returns:
        the mean loss of the heads at every step.
    """
    optimizer = torch.optim.Adam(heads.parameters(), lr=CTC_LR)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(batches), generator=generator).tolist() for _ in range(epochs)]
    losses: list[float] = []
    indices = [index for order in orders for index in order]
    with tqdm(indices, desc=title, unit="step", disable=None) as bar:
        for index in bar:
            losses_N = heads.losses(batches[index].to(heads.mean_ND.device))
            optimizer.zero_grad()
            # Of a sum, each head's gradient is that of its own loss.
            losses_N.sum().backward()
            optimizer.step()
            schedule.step()
            losses.append(float(losses_N.detach().mean()))
            bar.set_postfix(loss=f"{losses[-1]:.2f}")
    return losses
