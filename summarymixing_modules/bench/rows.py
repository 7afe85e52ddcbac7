"""A case of a bench and what was measured of it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from summarymixing_modules.bench.measure import Timing

OK, OOM, SKIPPED, WRONG, REFUSED = "ok", "out of memory", "skipped", "wrong", "refused"


@dataclass
class Row:
    """A case and what was measured of it.

    Attributes:
        form, attention_type, options: the mixer.
        d_model: features D.
        parameters: of what was timed.
        batch: utterances.
        seconds: of the longest of them.
        passes: what was timed.
        status: "ok", or why there are no figures; ``note`` says more.
        error: relative to ``reference``, see bench/checks.py.
        audio_seconds: in the batch, without padding.
        padding: share of padded frames.
        peak_bytes: weights, the optimizer's state, input, and the most that was live beside them.
        interleaved: False: timed alone, because the others had to leave the GPU.
        rounds: seconds of every round.
    """

    form: str
    attention_type: str
    options: dict[str, Any]
    d_model: int
    parameters: int
    batch: int
    seconds: float
    passes: str
    status: str = OK
    note: str = ""
    error: float | None = None
    reference: str = ""
    audio_seconds: float = 0.0
    padding: float = 0.0
    peak_bytes: int | None = None
    interleaved: bool = True
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of the middle round."""
        return statistics.median(self.rounds)

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing for a second of audio."""
        return self.median / self.audio_seconds

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        found = asdict(self)
        if self.rounds:
            low, high = Timing(tuple(self.rounds)).quartiles
            found |= {"median_s": self.median, "quartiles_s": [low, high]}
            found["real_time_factor"] = self.real_time_factor
        return found
