"""The tasks of a probing benchmark: their data, probes and Brains (MP3S, arXiv 2308.14456)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from summarymixing_modules.data.corpora.iemocap import TASK as EMOTION
from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.brains import (
    ClassProbingBrain,
    CTCProbingBrain,
    ProbingBrain,
    VerificationBrain,
)
from summarymixing_modules.probing.heads import (
    ContextNetCTCHead,
    LinearCTCHead,
    PooledLinearHead,
    PooledRecurrentHead,
    RecurrentCTCHead,
)
from summarymixing_modules.probing.speaker_heads import EmbeddedClassHead, SpeakerHead
from summarymixing_modules.training.data.audio import AUDIO_KEYS, AudioData
from summarymixing_modules.training.data.labelled import ClassificationData, load_labelled
from summarymixing_modules.training.data.transcribed import ASRData, load_transcribed
from summarymixing_modules.training.data.verification import VerificationData, load_verification
from summarymixing_modules.training.recipe.options import ConfigError, did_you_mean

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
        brain: trains and scores.
        probes: what can be put on the encoder.
        metric: entry of the metrics that counts; its name says whether it is an error.
        keys: of the YAML file that only this task and those that share them read.
    """

    load: Callable[[Mapping[str, Any]], AudioData]
    brain: type[ProbingBrain]
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


_SPLITS = frozenset({"train_splits", "dev_splits", "test_splits", "verify_audio"})
_TOKENS = frozenset({"token_type", "output_neurons", "test_beam_size", "test_beam_options"})

TASKS: dict[str, ProbingTask] = {
    "librispeech_asr": ProbingTask(
        load_transcribed, CTCProbingBrain, _TRANSCRIPT_PROBES, "test_wer", _SPLITS | _TOKENS
    ),
    "common_voice": ProbingTask(
        load_transcribed,
        CTCProbingBrain,
        _TRANSCRIPT_PROBES,
        "test_wer",
        _TOKENS | {"language", "longest", "clips_folder"},
    ),
    "voxceleb": ProbingTask(
        load_verification,
        VerificationBrain,
        {name: _speaker_probe(name) for name in ("xvector", "ecapa")},
        "test_eer",
        frozenset(
            {"trials_file", "valid_share", "crop_seconds", "margin", "scale", "verify_audio"}
        ),
    ),
    "iemocap": ProbingTask(
        partial(load_labelled, tasks=[EMOTION]),
        ClassProbingBrain,
        _CLASS_PROBES,
        "test_accuracy",
        frozenset({"fold", "verify_audio"}),
    ),
    "slurp_scenario": ProbingTask(
        partial(load_labelled, tasks=["scenario"]),
        ClassProbingBrain,
        _CLASS_PROBES,
        "test_accuracy",
        _SPLITS,
    ),
}
TASK_KEYS = frozenset().union(*(task.keys for task in TASKS.values()))
#: Every key that a YAML file of the recipe may have.
PROBING_RECIPE_KEYS = (
    frozenset().union(*(task.brain.known_keys for task in TASKS.values()))
    | (AUDIO_KEYS - {"train_splits", "dev_splits", "test_splits"})
    | TASK_KEYS
    | {"name", "encoder", "head_options", "checkpointer"}
)


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


def evaluate_probe(brain: ProbingBrain, data: AudioData) -> tuple[dict[str, float], float | None]:
    """Metrics of the test sets with the best checkpoint, and the real-time factor if measured."""
    if isinstance(brain, VerificationBrain):
        assert isinstance(data, VerificationData)
        (test_set,) = data.datasets.test.values()
        return brain.evaluate_trials(test_set, data.trials, data.eval_loader), None
    assert isinstance(brain, CTCProbingBrain | ClassProbingBrain)
    return brain.evaluate_all(data.datasets.test, data.eval_loader)
