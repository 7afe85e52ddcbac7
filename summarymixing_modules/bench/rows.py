"""A case of a bench and what was measured of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from summarymixing_modules.bench.measure import Timing

OK, OOM, SKIPPED, WRONG, REFUSED = "ok", "out of memory", "skipped", "wrong", "refused"
UNTIMED = "not timed yet"  # in files: ok so far


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
    def case(self) -> tuple[str, int, float, str]:
        """What tells it from the others of a bench."""
        return self.form, self.batch, self.seconds, self.passes

    @property
    def is_measured(self) -> bool:
        """Its memory is known, or why there is nothing to know."""
        return self.status != OK or self.audio_seconds > 0

    def lacks(self, rounds: int) -> int:
        """Rounds that are still to be timed."""
        return max(0, rounds - len(self.rounds)) if self.status == OK else 0

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
        if self.status == OK and not self.rounds:
            found["status"] = UNTIMED
        if self.rounds:
            low, high = Timing(tuple(self.rounds)).quartiles
            found |= {"median_s": self.median, "quartiles_s": [low, high]}
            found["real_time_factor"] = self.real_time_factor
        return found

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Row:
        """The row that ``as_dict`` has written.

        Raises:
            TypeError, ValueError: it is something else.
        """
        names = {entry.name for entry in fields(cls)}
        row = cls(**{key: value for key, value in content.items() if key in names})
        if row.status == UNTIMED:
            row.status = OK
        if row.error is not None:
            row.error = float(row.error)  # an infinite one is a text in JSON
        return row
