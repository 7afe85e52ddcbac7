"""From log-probabilities of CTC to transcripts.

Shape suffixes: B batch, T frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechbrain.decoders.ctc import CTCBeamSearcher, ctc_greedy_decode
from torch import Tensor

from summarymixing_modules.data.text.tokenizers import BLANK_INDEX, Tokenizer


class CTCDecoder:
    """The best transcripts of a batch.

    Args:
        tokenizer: of the model.
        beam_size: 1 decodes greedily.
        options: more arguments of SpeechBrain's ``CTCBeamSearcher``.
    """

    def __init__(
        self, tokenizer: Tokenizer, beam_size: int = 1, options: Mapping[str, Any] | None = None
    ) -> None:
        self.tokenizer, self._searcher = tokenizer, None
        if beam_size > 1:
            self._searcher = CTCBeamSearcher(
                blank_index=BLANK_INDEX,
                vocab_list=tokenizer.pieces(),
                beam_size=int(beam_size),
                **(options or {}),
            )

    def __call__(self, log_probs_BTV: Tensor, share_B: Tensor) -> list[str]:
        """Transcripts.

        Args:
            log_probs_BTV: of the tokens.
            share_B: share of real frames.
        """
        if self._searcher is not None:
            found = self._searcher(log_probs_BTV, share_B)
            return [best[0].text.strip() for best in found]
        return self.tokenizer.texts(ctc_greedy_decode(log_probs_BTV, share_B, BLANK_INDEX))
