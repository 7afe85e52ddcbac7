"""A corpus of one's own, in a layout of its own: registered, and trained on by one flag."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.corpora import register_corpus, unregister_corpus
from summarymixing_modules.data.manifest import Manifests
from summarymixing_modules.data.preparation import Listing, Preparation, Utterance
from summarymixing_modules.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "recipes" / "LibriSpeech" / "ASR" / "CTC" / "hparams" / "small_conformer.yaml"
OPTIONS = [
    "--num_encoder_layers=1",
    "--d_model=16",
    "--nhead=2",
    "--d_ffn=32",
    "--kernel_size=7",
    "--cnn_channels=[4, 4]",
    "--num_buckets=2",
    "--debug",
]


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A folder of recordings named after what is said in them."""

    @register_corpus("mine", source="a test")
    def prepare_mine(
        preparation: Preparation,
        *,
        train_splits: list[str],
        test_splits: list[str],
        held_out: str = "heldout",
    ) -> Manifests:
        save = preparation.save_folder
        test = {name: save / f"{name}.csv" for name in test_splits}
        if not preparation.skip_prep:
            for split in (*train_splits, held_out, *test_splits):
                files = sorted((preparation.data_folder / split).glob("*.wav"))
                said = [Utterance(f"{split}-{f.stem}", f, text=f.stem.upper()) for f in files]
                preparation.prepare(split, {}, partial(Listing, said))
        return Manifests(save / f"{train_splits[0]}.csv", save / f"{held_out}.csv", test)

    draw = np.random.default_rng(0)
    for split in ("studio", "heldout", "street"):
        (tmp_path / "words" / split).mkdir(parents=True)
        for word in ("yes", "no", "maybe"):
            file = tmp_path / "words" / split / f"{word}.wav"
            soundfile.write(file, 0.1 * draw.standard_normal(16000), 16000)
    yield tmp_path / "words"
    unregister_corpus("mine")


def test_a_corpus_of_ones_own(
    mine: Path, tmp_path: Path, run_recipe: Callable[..., dict[str, Any]]
) -> None:
    splits = ["--train_splits=[studio]", "--test_splits=[street]"]
    result = run_recipe(SMALL, f"--data_folder={mine}", "--corpus=mine", *splits, *OPTIONS)
    assert result["optimizer_steps"] > 0 and result["test_utterances"] == {"street": 3}
    assert "MAYBE" in (tmp_path / "run" / "save" / "street.csv").read_text()
    with pytest.raises(InputError, match="--corpus=mein: .*did you mean 'mine'"):
        run_recipe(SMALL, "--corpus=mein", f"--output_folder={tmp_path / 'other'}", *OPTIONS)


def test_options_of_ones_own_are_keys_and_flags(
    mine: Path, tmp_path: Path, run_recipe: Callable[..., dict[str, Any]]
) -> None:
    (tmp_path / "train.py").symlink_to(SMALL.parents[1] / "train.py")
    own = tmp_path / "hparams" / "mine.yaml"
    own.parent.mkdir()
    splits = "train_splits: [studio]\ntest_splits: []\n"
    own.write_text(f"base: {SMALL}\ncorpus: mine\nheld_out: street\n{splits}")
    with pytest.raises(InputError, match="Nothing reads the key 'held_out'"):
        run_recipe(own, "--corpus=librispeech", "--held_out=x", *OPTIONS)
    options = [f"--data_folder={mine}", "--held_out=heldout", "--test_splits=[street]"]
    assert run_recipe(own, *options, *OPTIONS)["test_utterances"] == {"street": 3}
    assert (tmp_path / "run" / "save" / "heldout.csv").is_file()
