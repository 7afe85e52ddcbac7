"""The demo corpus: LibriSpeech's layout, disjoint splits, reproducible, cached, careful."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader", reason="the demo corpus needs espeakng-loader")

from summarymixing_modules.data.demo import corpus as demo_corpus
from summarymixing_modules.data.demo import speech as demo_speech
from summarymixing_modules.data.demo.corpus import DemoCorpusError, make_demo_corpus
from summarymixing_modules.data.demo.espeak import EspeakError, voice_variants
from summarymixing_modules.data.demo.grammar import make_sentences
from summarymixing_modules.data.demo.speech import SPEAKERS_PER_VARIANT, cast, split_variants

#: Sentences for train, dev and test.
TINY = (12, 3, 4)
SIZES = {"train-clean-100": 12, "dev-clean": 3, "test-clean": 4}


def fingerprint(folder: Path) -> dict[str, str]:
    """Content of all files but the stamp, which holds the seconds that the work took."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "LibriSpeech").rglob("*"))
        if path.is_file() and path.name != "demo.json"
    }


def transcripts(folder: Path, split: str) -> dict[str, str]:
    lines = [
        line.split(" ", 1)
        for file in (folder / "LibriSpeech" / split).glob("*/*/*.trans.txt")
        for line in file.read_text().splitlines()
    ]
    return {name: text for name, text in lines}


def test_librispeech_layout(demo_folder: Path) -> None:
    for split, count in SIZES.items():
        texts = transcripts(demo_folder, split)
        assert len(texts) == count
        for identifier, text in texts.items():
            speaker, chapter, line = identifier.split("-")
            name = f"LibriSpeech/{split}/{speaker}/{chapter}/{identifier}.flac"
            info = soundfile.info(demo_folder / name)
            assert (info.samplerate, info.channels, info.format) == (16000, 1, "FLAC")
            assert 0.7 < info.duration < 7 and len(line) == 4 and text.isupper()


def test_it_says_that_it_is_synthetic(demo_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    readme = (demo_folder / "LibriSpeech" / "README.TXT").read_text()
    assert readme.startswith("SYNTHETIC SPEECH")
    assert json.loads((demo_folder / "LibriSpeech" / "demo.json").read_text())["synthetic"] is True
    with caplog.at_level("INFO"):
        info = make_demo_corpus(demo_folder, *TINY, progress=False)
    assert info.reused and info.synthetic
    assert "SYNTHETIC" in caplog.text


def test_no_voice_and_no_sentence_in_two_splits(demo_folder: Path) -> None:
    variants = split_variants()
    assert len(variants["dev-clean"]) >= 10 and len(variants["test-clean"]) >= 10
    assert len(variants["train-clean-100"]) >= 50
    every = [name for names in variants.values() for name in names]
    assert sorted(every) == sorted(voice_variants())
    texts = [text for split in SIZES for text in transcripts(demo_folder, split).values()]
    assert len(set(texts)) == len(texts) == sum(SIZES.values())
    voices = {
        split: {u.speaker.variant for u in utterances}
        for split, utterances in demo_corpus._cast_splits(
            {"dev-clean": 300, "test-clean": 300, "train-clean-100": 600}, seed=2
        ).items()
    }
    assert not voices["dev-clean"] & voices["test-clean"]
    assert not voices["train-clean-100"] & (voices["dev-clean"] | voices["test-clean"])


def test_siblings_of_a_voice_are_in_its_split() -> None:
    split_of = {name: split for split, names in split_variants().items() for name in names}
    for name, split in split_of.items():
        for other, other_split in split_of.items():
            stem = name.rstrip("0123456789")
            if len(stem) > 1 and stem == other.rstrip("0123456789"):
                assert split == other_split, (name, other)


def test_every_speaker_is_cast_and_ids_are_unique() -> None:
    variants = split_variants()["dev-clean"]
    speakers = len(variants) * SPEAKERS_PER_VARIANT
    utterances = cast(make_sentences(30 * speakers, seed=1), variants, seed=1)
    assert len({u.identifier for u in utterances}) == len(utterances)
    assert len({u.speaker.number for u in utterances}) == speakers
    # 30 lines a speaker make two chapters.
    assert len({u.chapter for u in utterances}) == 2 * speakers


def test_bit_identical_whatever_the_number_of_processes(demo_folder: Path, tmp_path: Path) -> None:
    make_demo_corpus(tmp_path, *TINY, workers=3, progress=False)
    assert fingerprint(tmp_path) == fingerprint(demo_folder)


def test_another_seed_gives_another_corpus(demo_folder: Path, tmp_path: Path) -> None:
    sizes = (1, 1, 1)
    make_demo_corpus(tmp_path, *sizes, seed=7, workers=1, progress=False)
    assert not set(fingerprint(tmp_path).values()) & set(fingerprint(demo_folder).values()) - {
        fingerprint(demo_folder)["LibriSpeech/README.TXT"]
    }


def test_a_finished_tree_is_reused_and_a_damaged_or_other_one_made_again(tmp_path: Path) -> None:
    sizes = (3, 1, 1)
    first = make_demo_corpus(tmp_path, *sizes, workers=1, progress=False)
    assert not first.reused
    again = make_demo_corpus(tmp_path, *sizes, workers=1, progress=False)
    assert again.reused and again.hours == first.hours
    files = fingerprint(tmp_path)
    next((tmp_path / "LibriSpeech").rglob("*.flac")).unlink()
    assert not make_demo_corpus(tmp_path, *sizes, workers=1, progress=False).reused
    assert fingerprint(tmp_path) == files
    assert not make_demo_corpus(tmp_path, *sizes, workers=1, overwrite=True, progress=False).reused
    larger = make_demo_corpus(tmp_path, 4, 1, 1, workers=1, progress=False)
    assert not larger.reused and larger.utterances["train-clean-100"] == 4
    # Growing the training set leaves the evaluation sets as they are.
    grown = fingerprint(tmp_path)
    assert all(grown[name] == files[name] for name in files if "/dev-" in name or "/test-" in name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".demo_corpus.lock", "LibriSpeech"]


def test_info_counts_what_is_there(demo_folder: Path) -> None:
    info = make_demo_corpus(demo_folder, *TINY, progress=False)
    texts = [text for split in SIZES for text in transcripts(demo_folder, split).values()]
    assert info.utterances == SIZES and info.sentences == len(texts)
    assert info.vocabulary == len({word for text in texts for word in text.split()})
    seconds = sum(
        soundfile.info(path).duration
        for path in (info.librispeech / "train-clean-100").rglob("*.flac")
    )
    assert info.hours["train-clean-100"] == pytest.approx(seconds / 3600, abs=1e-4)


def test_real_librispeech_is_never_touched(corpus: Path) -> None:
    before = fingerprint(corpus)
    for overwrite in (False, True):
        with pytest.raises(DemoCorpusError, match="is not a demo corpus: give another folder"):
            make_demo_corpus(corpus, *TINY, overwrite=overwrite, progress=False)
    assert fingerprint(corpus) == before


def test_a_file_of_the_user_in_the_tree_stops_its_replacement(
    demo_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_folder / "LibriSpeech", tmp_path / "LibriSpeech")
    (tmp_path / "LibriSpeech" / "my_notes.txt").write_text("keep me")
    with pytest.raises(DemoCorpusError, match=r"my_notes\.txt"):
        make_demo_corpus(tmp_path, *TINY, overwrite=True, progress=False)
    assert (tmp_path / "LibriSpeech" / "my_notes.txt").read_text() == "keep me"


def test_a_killed_run_leaves_nothing_that_counts_as_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    sizes = (2, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(demo_corpus, "_contents", killed)
        with pytest.raises(KeyboardInterrupt):
            make_demo_corpus(tmp_path, *sizes, workers=1, progress=False)
    assert not (tmp_path / "LibriSpeech").exists()
    assert not make_demo_corpus(tmp_path, *sizes, workers=1, progress=False).reused
    assert not (tmp_path / ".LibriSpeech.partial").exists()


def test_bad_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DemoCorpusError, match="dev-clean: asked for 0 sentences"):
        make_demo_corpus(tmp_path, dev_sentences=0)
    assert not list(tmp_path.iterdir())


def test_a_silent_voice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_speech, "speak", lambda *_, **__: np.zeros(16000, dtype=np.float32))
    utterance = cast(make_sentences(1, seed=1), ["paul"], seed=1)[0]
    with pytest.raises(EspeakError, match="'paul' spoke only silence"):
        demo_speech.render(utterance, seed=1)


def test_noise_is_light_and_the_level_is_safe() -> None:
    utterances = cast(make_sentences(8, seed=4), split_variants()["test-clean"], seed=4)
    for utterance in utterances:
        samples = demo_speech.render(utterance, seed=4)
        assert 0.2 < np.abs(samples).max() < 0.95
        # The first 40 ms hold noise only, at least 15 dB below the speech.
        edge, whole = samples[:640].std(), samples.std()
        assert 0 < edge < whole * 10 ** (-15 / 20)
