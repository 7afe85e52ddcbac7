"""Settings that only together can be right or wrong: checked before anything is built.

Every check looks at the keys that it knows, and passes where the recipe has none of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from speechbrain.decoders.ctc import CTCBaseSearcher, CTCBeamSearcher
from speechbrain.utils.distributed import infer_device
from speechbrain.utils.logger import get_logger

from summarymixing_modules.errors import did_you_mean
from summarymixing_modules.mixers import MixerSize, build_mixer, select_options
from summarymixing_modules.training.recipe.options import ConfigError

logger = get_logger(__name__)

#: key → value: every flat key and the run options.
Values = Mapping[str, Any]

_CHUNKS = ("chunkwise_prob", "chunk_size", "limited_left_context_prob", "left_context_chunks")


def values_of(tree: Mapping[str, Any], run_options: Mapping[str, Any]) -> dict[str, Any]:
    """All settings: a run option wins over a key of the recipe.

    Args:
        tree: the recipe's file, all references resolved.
        run_options: those that were given.
    """
    return {**tree, **run_options}


def check_together(values: Values, given: Collection[str]) -> None:
    """Check all that must fit together.

    Args:
        values: see `values_of`.
        given: flags of the command line.

    Raises:
        ConfigError: names the flags and the remedy.
    """
    for check in _CHECKS:
        check(values)
    _check_chunks_are_used(values, given)


def check_machine(values: Values) -> None:
    """Check that this machine has what a training is asked to use.

    Raises:
        ConfigError: names the flags and the remedy.
    """
    device = str(values.get("device") or infer_device())
    for key in ("precision", "eval_precision"):
        if values.get(key) == "fp16" and device.startswith("cpu"):
            raise ConfigError(
                f"--{key}=fp16 needs a GPU, and --device is {device}: use bf16 or fp32 there."
            )
    if values.get("data_parallel_backend") and not torch.cuda.is_available():
        raise ConfigError("--data_parallel_backend needs GPUs, and there is none: leave it out.")
    folder = values.get("save_folder")
    if values.get("test_only") and folder is not None and not any(Path(folder).glob("CKPT*")):
        raise ConfigError(
            f"--test_only tests what has been trained, and there is no checkpoint in {folder}: "
            "leave it out, or give the --output_folder of a training."
        )


def _require(values: Values, key: str, holds: bool, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"--{key}={values[key]} must be {wanted}.")


def _ordered(low: str, high: str, equal: bool = True) -> Callable[[Values], None]:
    """A check that one key is not above another; or, if they may not be equal, below it."""

    def check(values: Values) -> None:
        one, other = values.get(low), values.get(high)
        if one is not None and other is not None:
            wanted = "at most" if equal else "below"
            fits = one <= other if equal else one < other
            _require(values, low, fits, f"{wanted} --{high}={other}")

    return check


def _check_intervals(values: Values) -> None:
    curves, log = values.get("curve_interval"), values.get("log_interval")
    if curves is not None and log is not None:
        wanted = f"a multiple of --curve_interval={curves}: a line of the log is a mean of points"
        _require(values, "log_interval", log % curves == 0, wanted)


def _check_batches(values: Values) -> None:
    batch, shortest = values.get("max_batch_length"), values.get("avoid_if_shorter_than")
    if batch is not None and shortest is not None:
        wanted = f"above --avoid_if_shorter_than={shortest}: no utterance fits into a batch"
        _require(values, "max_batch_length", batch > shortest, wanted)


def _check_shards(values: Values) -> None:
    if values.get("shard_window") is None:
        return
    if values.get("shards") is None:
        raise ConfigError("--shard_window is for --shards: leave it out, or give them.")
    if values.get("sorting") != "random" or "crop_seconds" in values:
        raise ConfigError(
            "--shard_window shuffles batches by length within some shards: leave it out with "
            "another --sorting than random, and where batches are of crops."
        )


def _check_splits(values: Values) -> None:
    scored = "test_beam_size" in values or "tasks" in values  # others report no test
    if scored and values.get("test_splits") == []:
        raise ConfigError("--test_splits=[] leaves nothing to test on: name at least one split.")


def _check_classes(values: Values) -> None:
    tasks, classes = values.get("tasks"), values.get("classes")
    if tasks is not None and classes is not None:
        wanted = f"one number for each of --tasks={list(tasks)}"
        _require(values, "classes", len(tasks) == len(classes), wanted)


def _check_outputs(values: Values) -> None:
    if "model" in values and values.get("output_neurons", 1) is None:
        raise ConfigError(
            "--output_neurons=null is for models that are made after the data are read. Here the "
            "model comes first: give the number of tokens."
        )


def _check_window(values: Values) -> None:
    milliseconds, size = values.get("win_length"), values.get("n_fft")
    if milliseconds is not None and size is not None:
        samples = round(values["sample_rate"] * milliseconds / 1000)
        wanted = f"at least the {samples} samples of a window (win_length {milliseconds} ms)"
        _require(values, "n_fft", size >= samples, wanted)


def _check_front_end(values: Values) -> None:
    channels = values.get("cnn_channels")
    if channels is not None:
        waveform = "frontend_type" in values  # a front end whose blocks are all of one width
        wanted = "one number, such as 512" if waveform else "a list such as [64, 32]"
        _require(values, "cnn_channels", isinstance(channels, int) == waveform, wanted)


def _check_edges(values: Values) -> None:
    if values.get("streaming") and values.get("padding_mode") == "reflect":
        raise ConfigError(
            "--padding_mode=reflect reflects the end of an utterance, which a stream does not "
            "know: give --padding_mode=zeros with --streaming=True."
        )


def _check_mixers(values: Values) -> None:
    """Build the mixers of a layer once, small as they are: they know which sizes they take."""
    if values.get("matched_to") is None and values.get("encoder_module") != "contextnet":
        table = values.get("options_by_mixer", {})
        _check_mixer(values, "attention_type", "nhead", "mixer_options", table)
    if values.get("decoder_nhead") is None:
        _check_mixer(values, "decoder_attention", "nhead", "decoder_mixer_options", {})
    else:
        _check_mixer(values, "decoder_attention", "decoder_nhead", "decoder_mixer_options", {})


def _check_mixer(
    values: Values, mixer: str, heads: str, options: str, table: Mapping[str, Any]
) -> None:
    name, d_model, nhead = (values.get(key) for key in (mixer, "d_model", heads))
    if name is None or d_model is None or nhead is None:
        return
    chosen = select_options(name, table, values.get(options))
    size = MixerSize(d_model, nhead, values.get("d_ffn") or 4 * d_model)
    try:
        with torch.random.fork_rng(devices=[]):
            build_mixer(name, size, **chosen)
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"--{mixer}={name} cannot be had with --d_model={d_model} and --{heads}={nhead}: "
            f"{str(error).rstrip('.')}."
        ) from error


def _check_language_model(values: Values) -> None:
    if values.get("lm_folder") is None:
        return
    _require(values, "lm_weight", values["lm_weight"] > 0, "above 0, as there is a --lm_folder")
    wanted = "above 1: a greedy search does not ask the language model of --lm_folder"
    _require(values, "test_beam_size", values["test_beam_size"] > 1, wanted)


def _check_beam_options(values: Values) -> None:
    options = values.get("test_beam_options")
    if not options:
        return
    if values["test_beam_size"] == 1:
        raise ConfigError(
            f"--test_beam_options={dict(options)} means nothing to the greedy search of "
            "--test_beam_size=1: give a larger one, or leave the options out."
        )
    known = {"state_beam", "expand_beam"}  # of transducers
    if "max_expansions" not in values:
        taken = {"self", "blank_index", "vocab_list", "beam_size", "kwargs"}
        searchers = (CTCBaseSearcher, CTCBeamSearcher)
        known = {name for s in searchers for name in inspect.signature(s.__init__).parameters}
        known -= taken
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(
                f"--test_beam_options has {name}, which the search does not take.{hint} "
                f"It takes {', '.join(sorted(known))}."
            )
    _check_kenlm(options.get("kenlm_model_path"))


def _check_kenlm(model: str | None) -> None:
    if model is None:
        return
    if not Path(model).is_file():
        raise ConfigError(f"--test_beam_options: there is no file kenlm_model_path {model}.")
    if find_spec("kenlm") is None:
        raise ConfigError(
            "--test_beam_options: kenlm_model_path needs the package kenlm, which is not "
            "installed: python -m pip install https://github.com/kpu/kenlm/archive/master.zip"
        )


def _warn_of_warm_up(values: Values) -> None:
    warm_up, steps = values.get("warmup_steps"), values.get("training_steps")
    if warm_up is not None and steps is not None and warm_up >= steps:
        logger.warning(
            f"The learning rate only rises: --warmup_steps={warm_up} is not below "
            f"--training_steps={steps}."
        )


def _warn_of_second_stage(values: Values) -> None:
    first, epochs = values.get("second_stage_after"), values.get("number_of_epochs")
    if first is not None and epochs is not None and first >= epochs:
        logger.warning(
            f"The second stage never begins: --second_stage_after={first} is not below "
            f"--number_of_epochs={epochs}."
        )


def _check_chunks_are_used(values: Values, given: Collection[str]) -> None:
    idle = [key for key in given if key.startswith(_CHUNKS)]
    if values.get("streaming") is False and idle:
        raise ConfigError(
            f"--{idle[0]} means nothing without --streaming=True: add that, or leave it out."
        )


_CHECKS: tuple[Callable[[Values], None], ...] = (
    _check_intervals,
    _check_batches,
    _check_shards,
    _check_splits,
    _check_classes,
    _check_outputs,
    _check_window,
    _check_front_end,
    _check_edges,
    _check_mixers,
    _check_language_model,
    _check_beam_options,
    _warn_of_warm_up,
    _warn_of_second_stage,
    _ordered("chunk_size_min", "chunk_size_max"),
    _ordered("left_context_chunks_min", "left_context_chunks_max"),
    _ordered("avoid_if_shorter_than", "avoid_if_longer_than", equal=False),
    _ordered("min_decode_ratio", "max_decode_ratio", equal=False),
    _ordered("time_drop_low", "time_drop_high", equal=False),
    _ordered("freq_drop_low", "freq_drop_high", equal=False),
    _ordered("temperature_min", "temperature"),
)
