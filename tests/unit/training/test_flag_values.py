"""Values of flags and of YAML files: each by its kind, and what only together is right or wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from summarymixing_modules.data.corpora import corpus_names, corpus_spec
from summarymixing_modules.training.recipe import consistency
from summarymixing_modules.training.recipe.config import load_recipe
from summarymixing_modules.training.recipe.consistency import check_machine, check_together
from summarymixing_modules.training.recipe.keys import KINDS
from summarymixing_modules.training.recipe.options import FLAGS, LISTS, RUN_OPTIONS, ConfigError
from summarymixing_modules.training.recipe.values import checked_flags
from summarymixing_modules.training.recipe.yaml_checks import RecipeFile, read_recipe

ROOT = Path(__file__).resolve().parents[3]
CTC = ROOT / "recipes/LibriSpeech/ASR/CTC/hparams/small_conformer.yaml"
_FLAT = re.compile(r"^([A-Za-z]\w*): +(?!!(?:new|name|apply))\S", re.MULTILINE)
#: `d_model` may be null here, because it is null in a base.
PARTS: dict[Path, dict[str, Any]] = {Path("base.yaml"): {"d_model": None}, Path("x.yaml"): {}}
SOURCE = RecipeFile(Path("x.yaml"), {"d_model": 4}, PARTS)


def recipe_files() -> set[Path]:
    """All recipes, and the pieces that they are made of."""
    recipes = (ROOT / "recipes").rglob("hparams/*.yaml")
    return {part.resolve() for file in recipes for part in read_recipe(file).parts}


def test_every_key_has_a_kind() -> None:
    """A new key of a recipe needs a line in training/recipe/keys.py."""
    files = recipe_files()
    keys = {key for file in files for key in _FLAT.findall(file.read_text())} - {"base"}
    assert len(files) > 45 and len(keys) > 170
    assert sorted(keys - KINDS.keys()) == []
    options = RUN_OPTIONS.keys() - FLAGS - LISTS
    hidden = {"param_file", "overridden_args", "data_parallel_count", "tqdm_barcolor"}  # no flags
    assert sorted(options - hidden - KINDS.keys()) == []
    specs = map(corpus_spec, corpus_names())  # other tests register some of their own
    own = [spec for spec in specs if spec.prepare.__module__.startswith("summarymixing_modules.")]
    corpora = {option for spec in own for option in spec.options}
    assert sorted(corpora - KINDS.keys()) == []
    assert sorted(KINDS.keys() - keys - corpora - RUN_OPTIONS.keys()) == [], "a kind of no key"


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("nhead=0", "a whole number from 1 on."),
        ("d_model=-16", "a whole number from 1 on, or null."),
        ("d_ffn=16.5", "a whole number from 1 on."),
        ("num_encoder_layers=True", "a whole number from 1 on."),
        ("training_steps=null", "a whole number from 1 on."),
        ("seed=-1", "a whole number from 0 up to 4294967295."),
        ("kernel_size=30", "an odd whole number from 1 on."),
        ("csgu_linear_units=31", "an even whole number from 2 on."),
        ("lr=-0.1", "a number above 0."),
        ("lr=fast", "a number above 0."),
        ("lr=.inf", "a number above 0."),
        ("dropout=1", "a number from 0 to below 1."),
        ("max_bad_audio=-1", "a number from 0 up to 1."),
        ("lr_decay=0", "a number above 0 up to 1."),
        ("streaming=maybe", "True or False."),
        ("absolute_positions=5", "True or False, or where_none, or null."),
        ("norm_type=utterance", "one of global, sentence, batch."),
        ("mode=SummaryMixing-light", "Did you mean SummaryMixing-lite or "),
        ("attention_type=ropemha", "Did you mean RoPEMHA?"),
        ("fold=11", "all, or a whole number from 1 up to 10."),
        ("test_splits=dev-clean", "a list such as [dev-clean, dev-other]. Write [dev-clean]."),
        ("classes=[]", "a list such as [18, 46]."),
        ("words=[yes, true]", "Write 'True' in quotes where a text is meant."),
        ("cnn_channels=[64, x]", "a list such as [64, 32], or a whole number from 1 on."),
        ("mixer_options=[d_state]", "options such as {name: value}."),
        ("mixer_options={d_state: 8", "as YAML: while parsing a flow mapping, expected ',' or '}'"),
        ("wav_augment=yes", "a block of the YAML file, or null."),
        ("output_folder=", "a path."),
        ("log_config=/nope", "a file that is there."),
        ("device=gpu:1", "cpu, cuda, cuda:1, …. GPUs are called cuda."),
        ("device=cuda:7", "The GPUs that torch can use here: 2."),
        ("device=xpu", "a device of this machine: cpu, cuda, cuda:1, …. ("),
        ("precision=fp8", "one of fp32, fp16, bf16."),
        ("ckpt_interval_minutes=x", "a whole number."),
        ("debug_batches=0", "a whole number from 1 on."),
    ],
)
def test_what_is_not_of_its_kind(flag: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    key, _, value = flag.partition("=")
    with pytest.raises(ConfigError) as error:
        checked_flags({key: value}, SOURCE)
    assert str(error.value).startswith(f"--{flag} ") and told in str(error.value)


@pytest.mark.parametrize(
    ("key", "given", "meant"),
    [
        ("streaming", "yes", "True"),
        ("streaming", "off", "False"),
        ("streaming", "True", "True"),
        ("training_steps", "1e5", "100000"),
        ("nhead", "4.0", "4"),
        ("lr", "1e-3", "1e-3"),
        ("d_model", "null", "null"),
        ("cnn_channels", "(16, 8)", "[16, 8]"),
        ("output_folder", "007", '"007"'),
        ("output_folder", "a: b", '"a: b"'),
        ("output_folder", "run #2", "run #2"),
        ("init_from", "null", "null"),
        ("data_folder", "/data/x=1", "/data/x=1"),
        ("matrix_left_contexts", "[null, 4]", "[null, 4]"),
        ("device", "cuda:1", "cuda:1"),
        ("opt_class", "!name:torch.optim.SGD", "!name:torch.optim.SGD"),
        ("fea_augment", "!ref <augmentation[fea_augment]>", "!ref <augmentation[fea_augment]>"),
        ("of_ones_own", "a: b", None),
        ("of_ones_own", "[1]", "[1]"),
        ("debug", "", ""),
    ],
)
def test_what_a_person_types_is_what_they_mean(
    key: str, given: str, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if meant is None:
        with pytest.raises(ConfigError, match=f"--{key}={given} cannot be read as YAML"):
            checked_flags({key: given}, SOURCE)
    else:
        assert checked_flags({key: given}, SOURCE) == {key: meant}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"chunk_size_min": 40, "chunk_size_max": 32}, "at most --chunk_size_max=32"),
        ({"left_context_chunks_min": 3, "left_context_chunks_max": 2}, "at most --left_context"),
        ({"avoid_if_shorter_than": 2.0, "avoid_if_longer_than": 2}, "below --avoid_if_longer_than"),
        ({"min_decode_ratio": 1, "max_decode_ratio": 0.5}, "below --max_decode_ratio=0.5"),
        ({"time_drop_low": 9, "time_drop_high": 9}, "below --time_drop_high=9"),
        ({"curve_interval": 10, "log_interval": 25}, "a multiple of --curve_interval=10"),
        ({"max_batch_length": 1, "avoid_if_shorter_than": 2}, "no utterance fits"),
        ({"test_splits": [], "test_beam_size": 1}, "--test_splits=[] leaves nothing to test on"),
        ({"test_splits": [], "tasks": ["intent"]}, "--test_splits=[] leaves nothing to test on"),
        ({"tasks": ["intent"], "classes": [18, 46]}, "one number for each of --tasks=['intent']"),
        ({"model": {}, "output_neurons": None}, "give the number of tokens"),
        ({"n_fft": 512, "win_length": 32, "sample_rate": 44100}, "the 1411 samples of a window"),
        ({"cnn_channels": 64}, "a list such as [64, 32]"),
        ({"cnn_channels": [64], "frontend_type": "mel"}, "one number, such as 512"),
        ({"lm_folder": "lm", "lm_weight": 0, "test_beam_size": 4}, "--lm_weight=0 must be above 0"),
        ({"lm_folder": "lm", "lm_weight": 1, "test_beam_size": 1}, "a greedy search does not ask"),
        ({"test_beam_options": {"topk": 2}, "test_beam_size": 1}, "means nothing to the greedy"),
        ({"test_beam_options": {"top_k": 2}, "test_beam_size": 4}, "has top_k, .* mean topk?"),
        (
            {"test_beam_options": {"topk": 2}, "test_beam_size": 4, "max_expansions": 9},
            "has topk, .* takes expand_beam, state_beam",
        ),
        (
            {"test_beam_options": {"kenlm_model_path": "/nope.arpa"}, "test_beam_size": 4},
            "no file kenlm_model_path /nope.arpa",
        ),
        (
            {"test_beam_options": {"kenlm_model_path": __file__}, "test_beam_size": 4},
            "needs the package kenlm, which is not installed",
        ),
        (
            {"attention_type": "RoPEMHA", "d_model": 16, "nhead": 3},
            "--attention_type=RoPEMHA cannot be had with --d_model=16 and --nhead=3: ",
        ),
        (
            {"decoder_attention": "regularMHA", "d_model": 16, "nhead": 2, "decoder_nhead": 5},
            "--decoder_attention=regularMHA cannot be had with --d_model=16 and --decoder_nhead=5",
        ),
        (
            {"attention_type": "mamba", "d_model": 16, "nhead": 1, "mixer_options": {"d_sate": 1}},
            "no option 'd_sate'",
        ),
    ],
)
def test_what_does_not_go_together(
    values: Mapping[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consistency, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as error:
        check_together(values, ())
    assert re.search(re.escape(told).replace(r"\.\*", ".*"), str(error.value))


def test_mixers_are_asked_without_random_numbers_of_the_training() -> None:
    before = torch.get_rng_state()
    check_together({"attention_type": "RoPEMHA", "d_model": 16, "nhead": 2}, ())
    assert torch.equal(before, torch.get_rng_state())
    matched = {"attention_type": "RoPEMHA", "d_model": 15, "nhead": 2, "matched_to": "mamba"}
    check_together(matched, ())  # another width will be found


def test_chunks_need_streaming() -> None:
    values = {"streaming": False, "chunk_size_min": 8, "chunk_size_max": 32}
    check_together(values, ["d_model"])
    with pytest.raises(ConfigError, match="--chunk_size_max means nothing without --streaming"):
        check_together(values, ["chunk_size_max"])
    check_together({**values, "streaming": True}, ["chunk_size_max"])


def test_what_a_machine_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--precision=fp16 needs a GPU, and --device is cpu"):
        check_machine({"precision": "fp16", "device": "cpu"})
    check_machine({"precision": "fp16", "device": "cuda:0"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="--data_parallel_backend needs GPUs"):
        check_machine({"data_parallel_backend": True})
    tested = {"test_only": True, "save_folder": str(tmp_path)}
    with pytest.raises(ConfigError, match=f"no checkpoint in {tmp_path}"):
        check_machine(tested)
    (tmp_path / "CKPT+x").mkdir()
    check_machine(tested)


def refusal(tmp_path: Path, *flags: str) -> str:
    """Of the small CTC recipe; nothing is written."""
    argv = [str(CTC), "--data_folder=/data", f"--output_folder={tmp_path / 'run'}", *flags]
    with pytest.raises(ConfigError) as error:
        load_recipe(argv, CTC.parents[1] / "train.py")
    assert not (tmp_path / "run").exists()
    return str(error.value)


def test_a_recipe_refuses_before_anything_is_built(tmp_path: Path) -> None:
    assert refusal(tmp_path, "--training_steps=0").startswith("--training_steps=0 must be")
    text = refusal(tmp_path, "--chunk_size_min=40", "--streaming=True")
    assert "--chunk_size_min=40 must be at most --chunk_size_max=32" in text
    text = refusal(tmp_path, "--padding_mode=reflect", "--streaming=True")
    assert "give --padding_mode=zeros" in text
    text = refusal(tmp_path, "--summary_hid_dim=[3]")
    assert text.startswith("--attention_type=SummaryMixing cannot be had with --d_model=144 and ")
    assert "needs a GPU" in refusal(tmp_path, "--precision=fp16", "--device=cpu")
    assert "--mode means nothing to" in refusal(
        tmp_path, "--attention_type=mamba", "--mode=SummaryMixing"
    )


YAML = """
base: features.yaml
output_folder: OUTPUT
nhead: 2
training_steps: 5
optimizer_step_limit: !ref <training_steps>
d_model: 4
"""

FEATURES = ("n_mels", "n_fft", "win_length")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A file, a variant of it, and a file that it is based on."""
    (tmp_path / "features.yaml").write_text("n_mels: 80\nn_fft: 512\nwin_length: 25\n")
    (tmp_path / "model.yaml").write_text(YAML.replace("OUTPUT", str(tmp_path / "out")))
    (tmp_path / "wide.yaml").write_text("# wider\nbase: model.yaml\nd_model: 6\n")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("model", "nhead: 2", "nhead: two", "nhead in .*model.yaml, line 4, is two, but must be a"),
        ("model", "nhead: 2", "nhead: 2.0", "nhead in .*model.yaml, line 4, is 2.0, but must be a"),
        ("model", "nhead: 2", "nhead: (2, 4)", "nhead in .*line 4, is .2, 4., but must be a"),
        ("model", "<training_steps>", "<nhead> - 2", "optimizer_step_limit in .*, line 6, is 0, "),
        ("wide", "d_model: 6", "d_model: yes", "d_model in .*wide.yaml, line 3, is yes, but must"),
        ("features", "n_fft: 512", "n_fft: 0", "n_fft in .*features.yaml, line 2, is 0, but must"),
    ],
)
def test_files_are_told_with_their_lines(
    recipe: Path, file: str, old: str, new: str, told: str
) -> None:
    path = recipe / f"{file}.yaml"
    path.write_text(path.read_text().replace(old, new))
    keys = {
        "nhead",
        "training_steps",
        "optimizer_step_limit",
        "output_folder",
        "d_model",
        *FEATURES,
    }
    with pytest.raises(ConfigError) as error:
        load_recipe([str(recipe / "wide.yaml")], {*keys, *FEATURES})
    assert re.search(told, str(error.value)) and not (recipe / "out").exists()
