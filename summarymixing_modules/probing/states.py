"""All hidden states of a frozen encoder for the utterances of a corpus, batch by batch.

Shape suffixes: N hidden states, B batch, T frames, D features, L samples, U tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from summarymixing_modules.data.batching import collate, make_batch_sampler
from summarymixing_modules.probing.encoder import FrozenEncoder
from summarymixing_modules.probing.heads import mean_over_time
from summarymixing_modules.probing.layer_data import TRAIN_SET, Corpora, Corpus

_BUCKETS = 50


@dataclass(frozen=True)
class StateBatch:
    """Every hidden state of some utterances, and the tokens of their transcripts, if any.

    State 0 is the input of the first layer; lengths count real frames and tokens.
    """

    ids: list[str]
    states_NBTD: Tensor
    lengths_B: Tensor
    tokens_BU: Tensor
    token_lengths_B: Tensor

    @classmethod
    def of(cls, encoder: FrozenEncoder, batch: Any) -> StateBatch:
        """Encodes a batch of ``collate``."""
        samples_BL, share_B = batch.sig
        hidden = encoder(samples_BL, (share_B * samples_BL.shape[1]).round().long())
        no_tokens = hidden.lengths_B.new_zeros(len(share_B), 0), torch.zeros_like(share_B)
        tokens_BU, token_share_B = getattr(batch, "tokens", no_tokens)
        token_lengths_B = (token_share_B * tokens_BU.shape[1]).round().long()
        states_NBTD = torch.stack(list(hidden.states))
        return cls(list(batch.id), states_NBTD, hidden.lengths_B, tokens_BU, token_lengths_B)

    def pooled(self) -> dict[str, Tensor]:
        """Utterance → mean over the real frames of every state, (N, D), on the CPU."""
        means = [mean_over_time(state.float(), self.lengths_B) for state in self.states_NBTD]
        return dict(zip(self.ids, torch.stack(means, dim=1).cpu(), strict=True))

    def to(self, device: str | torch.device) -> StateBatch:
        """The same on a device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def compact(self) -> StateBatch:
        """On the CPU in half precision; in full where a value is too large for that."""
        half_NBTD = self.states_NBTD.half()
        kept = half_NBTD if bool(half_NBTD.isfinite().all()) else self.states_NBTD
        return replace(self, states_NBTD=kept).to("cpu")

    def alignable(self) -> StateBatch:
        """The utterances with frames enough for CTC, padded no further than they need.

        Enough is one frame a token, and one for the blank between equal tokens.
        """
        tokens_BU, count_B = self.tokens_BU, self.token_lengths_B
        place_U = torch.arange(1, tokens_BU.shape[1], device=tokens_BU.device)
        equal_BU = (tokens_BU[:, 1:] == tokens_BU[:, :-1]) & (place_U < count_B[:, None])
        keep_B = self.lengths_B >= count_B + equal_BU.sum(dim=1)
        ids = [name for name, keep in zip(self.ids, keep_B.tolist(), strict=True) if keep]
        lengths_B, count_B = self.lengths_B[keep_B], count_B[keep_B]
        frames, tokens = (int(n_B.max()) if ids else 0 for n_B in (lengths_B, count_B))
        states_NBTD = self.states_NBTD[:, keep_B, :frames]
        return StateBatch(ids, states_NBTD, lengths_B, tokens_BU[keep_B, :tokens], count_B)


class ProbedEncoder:
    """An encoder, and what it makes of the corpora: every utterance goes through it once.

    Its name is for progress bars; ``keep_frames`` tells whether a task needs those of `TRAIN_SET`.
    """

    def __init__(
        self, name: str, encoder: FrozenEncoder, corpora: Corpora, keep_frames: bool
    ) -> None:
        self.name, self.corpora, self.keep_frames = name, corpora, keep_frames
        self.settings = corpora.settings
        self.encoder = encoder.to(self.settings.device)

    def batches(self, corpus: Corpus, name: str) -> Iterator[StateBatch]:
        """A set's utterances, each beside others of about its length, with a progress bar.

        Those whose audio cannot be read are left out; the dataset has noted them.
        """
        dataset, settings = corpus.sets[name], self.settings
        sampler = make_batch_sampler(
            dataset, settings.batch_seconds, _BUCKETS, shuffle=False, batch_ordering="ascending"
        )
        workers = settings.num_workers
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        with tqdm(total=len(dataset), desc=f"{self.name}, {name}", unit="utt", disable=None) as bar:
            for batch in loader:
                if len(batch):
                    yield StateBatch.of(self.encoder, batch.to(settings.device))
                bar.update(len(batch.id))

    @functools.cached_property
    def train_set(self) -> tuple[dict[str, Tensor], list[StateBatch]]:
        """Mean states (N, D) of the utterances of `TRAIN_SET`, and their frames if kept."""
        pooled: dict[str, Tensor] = {}
        frames: list[StateBatch] = []
        for batch in self.batches(self.corpora.librispeech, TRAIN_SET):
            pooled |= batch.pooled()
            if self.keep_frames:
                frames.append(batch.compact())
        return pooled, frames
