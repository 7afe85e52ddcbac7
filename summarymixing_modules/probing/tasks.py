"""The tasks of a probing benchmark: their data and probes (MP3S, arXiv 2308.14456)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import nn

from summarymixing_modules.data.corpora.iemocap import TASK as EMOTION
from summarymixing_modules.errors import InputError, did_you_mean
from summarymixing_modules.probing.heads import (
    ContextNetCTCHead,
    LinearCTCHead,
    PooledLinearHead,
    PooledRecurrentHead,
    RecurrentCTCHead,
)
from summarymixing_modules.probing.speaker_heads import EmbeddedClassHead, SpeakerHead
from summarymixing_modules.training.data.audio import AudioData
from summarymixing_modules.training.data.labelled import ClassificationData, load_labelled
from summarymixing_modules.training.data.transcribed import ASRData, load_transcribed
from summarymixing_modules.training.data.verification import VerificationData, load_verification
from summarymixing_modules.training.recipe.options import ConfigError

#: (input_size, outputs, **head_options) → a head
HeadBuilder = Callable[..., nn.Module]

_TRANSCRIPT_PROBES: dict[str, HeadBuilder] = {
    "bilstm": RecurrentCTCHead,
    "contextnet": ContextNetCTCHead,
    "linear": LinearCTCHead,
}
_CLASS_PROBES: dict[str, HeadBuilder] = {
    "linear": PooledLinearHead,
    "bilstm": PooledRecurrentHead,
    "ecapa": EmbeddedClassHead,
}


def _speaker_probe(embedder: str) -> HeadBuilder:
    def build(input_size: int, outputs: int, **options: Any) -> nn.Module:
        return SpeakerHead(input_size, outputs, embedder=embedder, **options)

    return build


@dataclass(frozen=True)
class ProbingTask:
    """A task.

    Attributes:
        load: from the keys of the YAML file to the data.
        objective: what a probe has to make: transcripts, classes, or embeddings of speakers.
        probes: what can be put on the encoder.
        metric: entry of the metrics that counts; its name says whether it is an error.
        keys: of the YAML file that only this task and those that share them read; options of
            corpora are not among them.
    """

    load: Callable[[Mapping[str, Any]], AudioData]
    objective: Literal["transcripts", "classes", "speakers"]
    probes: Mapping[str, HeadBuilder]
    metric: str
    keys: frozenset[str] = field(default_factory=frozenset)

    def head(self, probe: str, input_size: int, outputs: int, options: Mapping[str, Any]) -> Any:
        """The head of a probe.

        Args:
            probe: its name.
            input_size: features of a hidden state.
            outputs: tokens, classes or speakers.
            options: other arguments than these.

        Raises:
            InputError: no such probe for this task, or no such option of it.
        """
        if probe not in self.probes:
            raise InputError(f"--probe={probe} must be one of {', '.join(self.probes)}.")
        try:
            return self.probes[probe](input_size, outputs, **options)
        except TypeError as error:
            raise InputError(f"--head_options={dict(options)} of {probe}: {error}.") from error

    def describe(
        self, hparams: Mapping[str, Any], metrics: Mapping[str, float], shares: Sequence[float]
    ) -> dict[str, Any]:
        """What tables and plots read of a run.

        Args:
            hparams: of the recipe.
            metrics: of the test; none where nothing was tested.
            shares: of every hidden state in the sum; the input of the first layer comes first.
        """
        return {
            "task": hparams["name"],
            "probe": hparams["probe"],
            "encoder": str(hparams["encoder"]),
            "metric": self.metric,
            "score": metrics.get(self.metric),
            "layer_weights": list(shares),
        }


_VERIFY = frozenset({"verify_audio"})
_TOKEN_KEYS = frozenset({"token_type", "output_neurons", "test_beam_size", "test_beam_options"})

TASKS: dict[str, ProbingTask] = {
    "librispeech_asr": ProbingTask(
        load_transcribed, "transcripts", _TRANSCRIPT_PROBES, "test_wer", _VERIFY | _TOKEN_KEYS
    ),
    "common_voice": ProbingTask(
        load_transcribed,
        "transcripts",
        _TRANSCRIPT_PROBES,
        "test_wer",
        _TOKEN_KEYS,
    ),
    "voxceleb": ProbingTask(
        load_verification,
        "speakers",
        {name: _speaker_probe(name) for name in ("xvector", "ecapa")},
        "test_eer",
        _VERIFY | {"crop_seconds", "margin", "scale"},
    ),
    "iemocap": ProbingTask(
        partial(load_labelled, tasks=[EMOTION]),
        "classes",
        _CLASS_PROBES,
        "test_accuracy",
        _VERIFY,
    ),
    "slurp_scenario": ProbingTask(
        partial(load_labelled, tasks=["scenario"]),
        "classes",
        _CLASS_PROBES,
        "test_accuracy",
        _VERIFY,
    ),
}
TASK_KEYS = frozenset().union(*(task.keys for task in TASKS.values()))


def find_task(name: str, overrides: Iterable[str]) -> ProbingTask:
    """A task by its name.

    Args:
        name: one of `TASKS`.
        overrides: keys that the command line gives.

    Raises:
        ConfigError: no such task, or a flag that means nothing to it.
    """
    if name not in TASKS:
        hint = did_you_mean(name, TASKS)
        raise ConfigError(f"--task={name} must be one of {', '.join(TASKS)}.{hint}")
    foreign = [key for key in overrides if key in TASK_KEYS - TASKS[name].keys]
    if foreign:
        readers = [task for task, found in TASKS.items() if foreign[0] in found.keys]
        raise ConfigError(
            f"--{foreign[0]} means nothing to the task {name}, only to {', '.join(readers)}: "
            "leave it out."
        )
    return TASKS[name]


def number_of_outputs(data: AudioData) -> int:
    """Tokens, classes or speakers that a probe has to tell apart."""
    if isinstance(data, ASRData):
        return data.tokenizer.vocab_size
    assert isinstance(data, ClassificationData | VerificationData)
    return sum(len(names) for names in data.labels.names.values())
