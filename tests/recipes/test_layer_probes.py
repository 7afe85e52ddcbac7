"""Layer probes as a user runs them: files, going on after a stop, bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from summarymixing_modules.errors import InputError
from summarymixing_modules.probing.layer_probes import TASKS, Outcome
from summarymixing_modules.probing.layer_states import EncodedCorpora
from tests.ranks import load_script

ROOT = Path(__file__).resolve().parents[2]
script = load_script(ROOT / "recipes" / "MP3S" / "layer_probes.py")
main = script.main
SMALL = ["--content_epochs=2", "--prep_workers=1"]


@pytest.fixture(scope="session")
def corpora(corpus: Path, iemocap: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny corpora: noise as IEMOCAP, and the demo corpus, spread over four speakers."""
    root = tmp_path_factory.mktemp("layer_probes")
    (root / iemocap.name).symlink_to(iemocap)
    tree = corpus / "LibriSpeech"
    (root / "LibriSpeech").mkdir()
    (root / "LibriSpeech" / "test-clean").symlink_to(tree / "test-clean")
    files = sorted((tree / "train-clean-100").glob("*/*/*.trans.txt"))
    lines = [(file, line) for file in files for line in file.read_text().splitlines()]
    for index, (file, line) in enumerate(lines):
        name, _, text = line.partition(" ")
        speaker, chapter = 1 + index % 4, 10 + index // 12  # two chapters each
        folder = root / "LibriSpeech" / "train-clean-100" / f"{speaker}" / f"{chapter}"
        folder.mkdir(parents=True, exist_ok=True)
        new = f"{speaker}-{chapter}-{index:04d}"
        (folder / f"{new}.flac").symlink_to(file.with_name(f"{name}.flac"))
        with (folder / f"{speaker}-{chapter}.trans.txt").open("a") as stream:
            stream.write(f"{new} {text}\n")
    return root


def test_files_are_written_and_what_is_finished_is_kept(
    encoder: Path,
    corpora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine").symlink_to(encoder)
    output = tmp_path / "out"
    given = ["--encoders", str(tmp_path / "mine"), f"--corpora={corpora}", *SMALL]
    given.append(f"--output_folder={output}")

    def stop(probed: EncodedCorpora) -> Outcome:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setitem(TASKS, "emotion", stop)
        with pytest.raises(KeyboardInterrupt):
            main(given)
    first = json.loads((output / "layer_probes.json").read_text())
    assert [entry["task"] for entry in first] == ["speaker", "content"]

    for task in ("speaker", "content"):  # done: not called again
        monkeypatch.setitem(TASKS, task, stop)
    main(given)
    said = capsys.readouterr().out.splitlines()
    entries = json.loads((output / "layer_probes.json").read_text())
    assert entries[:2] == first and len(entries) == 3
    for entry in entries:
        task = entry["task"]
        assert len(entry["figures"]) == 3 and min(entry["figures"]) >= 0
        assert len(entry["encoder_digest"]) == 16 and entry["details"]["versions"]["torch"]
        with (output / f"layer_probes_{task}.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        name = "cer" if task == "content" else "accuracy"
        assert [float(row[name]) for row in rows] == entry["figures"]
        assert [row["layer"] for row in rows] == ["0", "1", "2"]
        assert {row["encoder"] for row in rows} == {"mine"}
        assert str(output / f"layer_probes_{task}.png") in said
        assert (output / f"layer_probes_{task}.png").stat().st_size > 10_000
    speaker, content, emotion = (entry["details"] for entry in entries)
    assert (speaker["train_utterances"], speaker["test_utterances"]) == (12, 12)
    assert speaker["speakers"] == speaker["speakers_split_by_chapter"] == 4
    assert content["test_utterances"] == 4
    assert emotion["utterances_of_class"] == [10, 10, 10, 10]
    assert entries[2]["chance"] == 25

    # Under another name it is the same encoder; another seed is another probe.
    (tmp_path / "renamed").symlink_to(encoder)
    renamed = [str(tmp_path / "renamed") if "mine" in token else token for token in given]
    main([*renamed, "--tasks", "speaker"])
    assert "renamed,0," in (output / "layer_probes_speaker.csv").read_text()
    assert json.loads((output / "layer_probes.json").read_text()) == entries
    with pytest.raises(KeyboardInterrupt):
        main([*given, "--tasks", "speaker", "--seed=7"])


def test_bad_input_is_told_before_any_work(encoder: Path, corpora: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / encoder.name).symlink_to(encoder)
    (tmp_path / "empty").mkdir()
    output = f"--output_folder={tmp_path / 'out'}"
    good, where = ["--encoders", str(encoder)], f"--corpora={corpora}"
    twice = [*good, str(tmp_path / "a" / encoder.name)]
    cases: list[tuple[list[str], str]] = [
        (["--encoders", "/nowhere", where], "--encoders /nowhere: no such folder"),
        ([*twice, where], f"both are called {encoder.name}.*link of another name"),
        ([*good, "--corpora=/nowhere"], "--corpora=/nowhere: no such folder"),
        ([*good, f"--corpora={tmp_path / 'empty'}"], "--corpora=.*no LibriSpeech.*--tasks speaker"),
        (
            [*good, f"--corpora={tmp_path / 'empty'}", "--tasks", "emotion"],
            "--corpora=.*found no Session1.*--tasks emotion",
        ),
        ([*good, where, "--max_hours=0"], "--max_hours is 0.0, but must be a number above 0"),
        ([*good, where, "--content_epochs=0"], "--content_epochs is 0, but must be a whole"),
        ([*good, where, "--device=gpu"], "--device is gpu, but must be a device .* called cuda"),
    ]
    for argv, message in cases:
        with pytest.raises(InputError, match=f"(?s){message}"):
            main([*argv, output])
    assert not (tmp_path / "out" / "layer_probes.json").exists()


def test_states_that_do_not_fit_into_memory_are_refused(
    encoder: Path, corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    given = ["--encoders", str(encoder), f"--corpora={corpora}", "--tasks", "content", *SMALL]
    with pytest.raises(InputError, match="lower --max_hours"):
        main([*given, f"--output_folder={tmp_path}"])
