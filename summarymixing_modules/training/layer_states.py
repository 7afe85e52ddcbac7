"""All hidden states of a frozen encoder for the utterances of a dataset, batch by batch.

Shape suffixes: N hidden states, B batch, T frames, D features, L samples, U tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from summarymixing_modules.data.batching import collate, make_batch_sampler
from summarymixing_modules.models.probe import FrozenEncoder
from summarymixing_modules.models.probe_heads import mean_over_time

_BUCKETS = 50


@dataclass(frozen=True)
class StateBatch:
    """What an encoder makes of some utterances.

    Attributes:
        ids: of the utterances.
        states_NBTD: every hidden state; the input of the first layer comes first.
        lengths_B: real frames.
        texts: transcripts; empty where the dataset has none.
        tokens_BU: of the transcripts; (B, 0) where there are none.
        token_lengths_B: how many are real.
    """

    ids: list[str]
    states_NBTD: Tensor
    lengths_B: Tensor
    texts: list[str]
    tokens_BU: Tensor
    token_lengths_B: Tensor

    def pooled(self) -> Tensor:
        """Mean over the real frames of every state, (B, N, D), single precision."""
        means = [mean_over_time(state.float(), self.lengths_B) for state in self.states_NBTD]
        return torch.stack(means, dim=1)

    def to(self, device: str | torch.device) -> StateBatch:
        """The same on a device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("states_NBTD", "lengths_B", "tokens_BU", "token_lengths_B")
        }
        return replace(self, **moved)

    def compact(self) -> StateBatch:
        """On the CPU in half precision; in full where a value is too large for that."""
        half_NBTD = self.states_NBTD.half()
        kept = half_NBTD if bool(half_NBTD.isfinite().all()) else self.states_NBTD
        return replace(self, states_NBTD=kept).to("cpu")

    def select(self, keep_B: Tensor) -> StateBatch:
        """Some of its utterances, padded no further than they need."""
        chosen = keep_B.nonzero()[:, 0].tolist()
        lengths_B, token_lengths_B = self.lengths_B[keep_B], self.token_lengths_B[keep_B]
        frames = int(lengths_B.max()) if chosen else 0
        tokens = int(token_lengths_B.max()) if chosen else 0
        return StateBatch(
            [self.ids[index] for index in chosen],
            self.states_NBTD[:, keep_B, :frames],
            lengths_B,
            [self.texts[index] for index in chosen],
            self.tokens_BU[keep_B, :tokens],
            token_lengths_B,
        )


def encoded_batches(
    encoder: FrozenEncoder,
    dataset: DynamicItemDataset,
    device: str,
    batch_seconds: float,
    num_workers: int = 0,
    title: str = "encoding",
) -> Iterator[StateBatch]:
    """Every utterance once, beside others of about its length, with a progress bar.

    Utterances whose audio cannot be read are left out; the dataset has noted them.

    Args:
        encoder: is on ``device``.
        dataset: of ``make_datasets``, with or without transcripts.
        device: where the states are.
        batch_seconds: audio of a batch at most, padding included.
        num_workers: processes that read audio.
        title: of the progress bar.
    """
    sampler = make_batch_sampler(
        dataset, batch_seconds, _BUCKETS, shuffle=False, batch_ordering="ascending"
    )
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers)
    with tqdm(total=len(dataset), desc=title, unit="utt") as bar:
        for batch in loader:
            if len(batch):
                yield _encode(encoder, batch.to(device))
            bar.update(len(batch.id))


def _encode(encoder: FrozenEncoder, batch: object) -> StateBatch:
    samples_BL, share_B = batch.sig  # type: ignore[attr-defined]
    hidden = encoder(samples_BL, (share_B * samples_BL.shape[1]).round().long())
    tokens_BU = samples_BL.new_zeros(len(samples_BL), 0, dtype=torch.long)
    token_lengths_B = torch.zeros_like(hidden.lengths_B)
    texts = [""] * len(samples_BL)
    if hasattr(batch, "tokens"):
        tokens_BU, token_share_B = batch.tokens
        token_lengths_B = (token_share_B * tokens_BU.shape[1]).round().long()
        texts = list(batch.wrd)  # type: ignore[attr-defined]
    states_NBTD = torch.stack(list(hidden.states))
    ids = list(batch.id)  # type: ignore[attr-defined]
    return StateBatch(ids, states_NBTD, hidden.lengths_B, texts, tokens_BU, token_lengths_B)


def alignable(batch: StateBatch) -> Tensor:
    """Which utterances have frames enough for CTC, (B,): one a token, and one between equals."""
    tokens_BU = batch.tokens_BU
    between_BU = (tokens_BU[:, 1:] == tokens_BU[:, :-1]) & (
        torch.arange(1, tokens_BU.shape[1], device=tokens_BU.device)
        < batch.token_lengths_B[:, None]
    )
    return batch.lengths_B >= batch.token_lengths_B + between_BU.sum(dim=1)
