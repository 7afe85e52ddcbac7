"""Tables of one's own recordings: what is wrong with them is told, what is odd is used."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from summarymixing_modules.data.corpora.manifest import held_out
from summarymixing_modules.data.labelled import read_annotations
from summarymixing_modules.data.manifest import Manifests, read_manifest
from summarymixing_modules.data.preparation import Utterance, left_out
from summarymixing_modules.errors import InputError
from tests.unit.data.prepared import prepared


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Recordings of several rates and channels; long.wav lasts 10 s."""
    draw = np.random.default_rng(0)
    for name, rate, shape in (
        ("a.wav", 16000, 16000),
        ("b.flac", 44100, (44100, 2)),
        ("c.ogg", 8000, 8000),
        ("long.wav", 8000, 80000),
    ):
        soundfile.write(tmp_path / name, 0.1 * draw.standard_normal(shape), rate)
    return tmp_path


def prepare(folder: Path, content: str | bytes, name: str = "t.csv", **options: Any) -> Manifests:
    """Train and validate on a table."""
    table = folder / name
    table.write_bytes(content.encode() if isinstance(content, str) else content)
    if options.get("valid_manifest", "valid.csv") == "valid.csv":
        options["valid_manifest"] = str(folder / "valid.csv")
        rows = "path,text,mood,split,size\na.wav,two,glad,dev,x\n"
        (folder / "valid.csv").write_text(rows)
    own = {"wanted": ("text",), **options}
    return prepared("manifest", folder, folder / "save", train_manifest=str(table), **own)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "path,text\na.wav,one\nb.flac,two\nc.ogg,three\n"),
        ("t.csv", "\ufeffPATH ; Text\r\na.wav;one\r\nb.flac;two\r\nc.ogg;three\r\n\r\n"),
        ("t.csv", "path\ttext\tnote\na.wav\tone\t\"\nb.flac\ttwo\t,\nc.ogg\tthree\n"),
        ("t.txt", "\n\ntext,wav,more\n\"one\n\",a.wav,\"a,b\"\n\"two\",b.flac,\nthree,./c.ogg,x\n"),
        ("t.jsonl", '{"audio_filepath": "a.wav", "text": "one", "duration": 1.0}\n\n'
         '{"audio_filepath": "b.flac", "text": "two", "n": {"x": 1}}\n'
         '{"audio_filepath": "c.ogg", "text": "three", "duration": null}\n'),
        ("table", '{"file": "a.wav", "Sentence": "One!"}\n{"file": "b.flac", "sentence": "two."}\n'
         '{"file": "c.ogg", "sentence": "¡three!"}'),
    ],
)  # fmt: skip
def test_odd_tables_are_used(audio: Path, name: str, content: str) -> None:
    for written, named in ((content.encode(), name), (gzip.compress(content.encode()), "t.csv.gz")):
        rows = read_manifest(prepare(audio, written, named).train)
        assert [row.wrd for row in rows] == ["ONE", "TWO", "THREE"]
        assert [row.duration for row in rows] == [1.0, 1.0, 1.0]
        assert len({row.id for row in rows}) == 3


WRONG: list[tuple[str, str, dict[str, Any]]] = [
    ("", "t.csv: is empty", {}),
    ("path,text\n", "t.csv: has no row", {}),
    ("a.wav,one\n", "has no column path or wav or audio_filepath, only 'a.wav', 'one'", {}),
    ("pth,text\na.wav,one\n", "has no column path.*Did you mean pth", {}),
    ("path,txt\na.wav,one\n", "has no column text or transcript.*Did you mean txt", {}),
    ("path,text,text\na.wav,b,c\n", "has the column 'text' twice", {}),
    ("path,text,start,stop\na.wav,one,0,1\n", "start and stop, which .* in seconds", {}),
    ("path,text\na.wav,5 cats\n", r"no usable utterance in .*t.csv:2: a.wav: .*'5', which", {}),
    ("path,text\na.wav,one,two\n", "line 2: has 3 fields, and there are 2 columns", {}),
    ('path,text\na.wav,"one\n', "line 2: unexpected end of data", {}),
    ("path,text\ngone.wav,one\nx.wav,two\n", "gone.wav: no such audio file", {}),
    ("path,text\na.wav,\nb.flac,\n", r"t.csv:2: a.wav: its text is empty", {}),
    ("path,text\n,one\n,two\n", r"t.csv:2: line 2: its path is empty", {}),
    ("id,path,text\nx,a.wav,one\nx,b.flac,two\n", "line 3: the ID x is also in line 2", {}),
    ("path,text\na.wav,one\na.wav,two\n", "line 3: the ID a.wav is also in line 2", {}),
    ("path,text,start,end\na.wav,one,0.5,0.2\nb.flac,two,2,3\n", "0.5 to 0.2 s is no part of", {}),
    (
        "path,text,start,end\na.wav,one,0,9\nb.flac,two,0,3\n",
        "a.wav: 0 to 9 s is no part.*lasts 1.00",
        {},
    ),
    ("path,text,start\na.wav,one,x\nb.flac,two,-1\n", "its start 'x' is no number of sec", {}),
    ("path,text,duration\na.wav,one,nan\nb.flac,two,inf\n", "duration 'nan' is no number", {}),
    (
        "path,text,duration\na.wav,one,3\nb.flac,two,3\n",
        "duration is given as 3 s.*give its start, too",
        {},
    ),
    ("path,text\na.wav,5 cats\nb.flac,50 %\n", "'5', which is not spelt out", {}),
    ("path,text\na.wav,один\nb.flac,два\n", "'о', which is not spelt out", {"language": "en"}),
    ("path,text\nt.csv,one\nt.csv.2,two\n", "t.csv: cannot be read as audio", {}),
    ("path,text\n$data_root/a.wav,one\n$data_root/b,two\n", "that this package made", {}),
    ("path,mood\na.wav,\nb.flac,\n", "it has no mood", {"wanted": ("mood",)}),
    ("path,text\na.wav,one\n", "no column mood, only", {"wanted": ("mood",)}),
    ("path,text\na.wav,one\n", "no column split, only", {"train_where": "split=train"}),
    ("path,text\na.wav,one\n", "'train' is not column=value", {"train_where": "train"}),
    ("path,text,s\na.wav,one,x\n", "has no row with s=y", {"train_where": "s=y"}),
    ("path,text,s\na.wav,one,x\n", "second condition on s", {"train_where": ["s=x", "S=y"]}),
    ("path,text\na.wav,one\n", "--language=french: is no code", {"language": "french"}),
    ('{"path": "a.wav", "text": "one"}\npath\n', "line 2: is no JSON", {}),
    ('{"path": "a.wav", "text": "one"}\n[1]\n', r"line 2: holds no object \{...\} but '\[1\]", {}),
    ("path,text\na.wav,one\n", "cannot be called 'train'", {"test_manifests": "train.csv"}),
    (
        "path,text\na.wav,one\n",
        "cannot be called 'a' like another",
        {"test_manifests": ["x/a.csv", "y/a.csv"]},
    ),
    (
        "path,text\na.wav,one\n",
        "--valid_manifest=no.csv: there is no",
        {"valid_manifest": "no.csv"},
    ),
]


@pytest.mark.parametrize(("content", "told", "options"), WRONG)
def test_wrong_tables_are_told(
    audio: Path, content: str, told: str, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=told):
        prepare(audio, content, **options)


def test_no_text_no_table(audio: Path) -> None:
    for content, name in ((b"path,text\n\xff\xfe,one\n", "t.csv"), (b"\x1f\x8b\x00", "t.csv.gz")):
        with pytest.raises(InputError, match="is not text in UTF-8.*convert it"):
            prepare(audio, content, name)
    with pytest.raises(InputError, match="is a folder: give a table"):
        own = {"train_manifest": str(audio), "wanted": ("text",)}
        prepared("manifest", audio, audio / "save", **own)


def test_a_bad_row_among_many_is_named_and_left_out(audio: Path) -> None:
    rows = [f"{number},a.wav,one" for number in range(150)]
    rows[70] = "70,gone.wav,one"
    manifests = prepare(audio, "\n".join(["id,path,text", *rows]), max_bad_fraction=0.01)
    assert len(read_manifest(manifests.train)) == 149
    assert "gone.wav: no such" in (audio / "save" / "bad_train.csv").read_text()
    assert [bad.id for bad in left_out(manifests.train)] == ["70"]


def test_parts_of_a_long_recording(audio: Path) -> None:
    content = "path,text,start,end,duration\nlong.wav,one,1.5,,2\nlong.wav,two,4,10.05,\n"
    rows = read_manifest(prepare(audio, content).train)
    assert [(row.start, row.stop) for row in rows] == [(12000, 28000), (32000, 80000)]
    assert [row.duration for row in rows] == [2.0, 6.0]
    assert [row.id for row in rows] == ["long.wav@1.5", "long.wav@4"]


def test_rows_by_column_raw_text_and_several_tests(audio: Path) -> None:
    content = "path,text,split,size\na.wav,Ärger 5!,train,x\nb.flac,two,dev,x\nc.ogg,three,test,x\n"
    tests = [f"near={audio}/t.csv", f"far={audio}/t.csv"]
    manifests = prepare(
        audio,
        content,
        language="raw",
        train_where=["split=train", "size=x"],
        valid_where="Split=dev",
        test_where="split=test",
        test_manifests=tests,
    )
    texts = [
        [row.wrd for row in read_manifest(path)] for path in (manifests.train, manifests.valid)
    ]
    assert texts == [["Ärger 5!"], ["two"]]
    assert {name: read_manifest(path)[0].wrd for name, path in manifests.test.items()} == {
        "near": "three",
        "far": "three",
    }


def test_a_share_of_speakers_is_held_out(audio: Path) -> None:
    rows = [f"{n},a.wav,one,s{n % 40}" for n in range(400)]
    content = "\n".join(["id,path,text,speaker", *rows])
    manifests = prepare(audio, content, valid_manifest=None, valid_share=0.2)
    train, valid = (
        {row.id: row.spk_id for row in read_manifest(path)}
        for path in (manifests.train, manifests.valid)
    )
    assert len(train) + len(valid) == 400 and not set(train) & set(valid)
    assert not set(train.values()) & set(valid.values())
    assert len(valid) == 80
    (audio / "a.wav").unlink()  # what is finished is kept, and nothing is examined again
    prepared(
        "manifest",
        audio,
        audio / "save",
        train_manifest=str(audio / "t.csv"),
        wanted=("text",),
        valid_share=0.2,
    )


def test_what_is_held_out_is_never_nothing_nor_all() -> None:
    def utterances(speakers: list[str]) -> list[Utterance]:
        return [Utterance(f"{i}", Path(f"{i}.wav"), speaker=who) for i, who in enumerate(speakers)]

    many = utterances([f"s{i % 40}" for i in range(400)])
    chosen = held_out(many, 0.05)
    assert chosen == held_out(many[::-1], 0.05) and len(chosen) == 20
    assert len({u.speaker for u in many if u.id in chosen}) == 2  # 10 utterances each
    for speaker in ("one", ""):  # recordings, then
        assert len(held_out(utterances([speaker] * 40), 0.05)) == 2
    parts = [Utterance(f"{i}", Path(f"{i // 10}.wav")) for i in range(100)]
    assert len({int(name) // 10 for name in held_out(parts, 0.1)}) == 1  # a recording, all of it
    for few, share in ((["one"], 0.5), (["one", "two"], 0.0)):
        with pytest.raises(InputError, match="cannot be parted so: give --valid_manifest"):
            held_out(utterances(few), share)


def test_rows_are_not_trained_and_evaluated_on(audio: Path) -> None:
    content = "path,text,split\na.wav,one,train\nb.flac,two,dev\nc.ogg,three,test\n"
    own = {"valid_manifest": None, "valid_where": "split=dev"}
    valid = prepare(audio, content, train_where="split=train", **own).valid
    assert [row.wrd for row in read_manifest(valid)] == ["TWO"]
    with pytest.raises(InputError, match="b.flac is in the rows of valid and in those that are"):
        prepare(audio, content, **own)
    with pytest.raises(InputError, match="c.ogg is in the rows of t and in those that are"):
        own = {"test_manifests": str(audio / "t.csv"), "train_where": "split=test"}
        prepare(audio, content, **own)


def test_labels_become_annotations(audio: Path) -> None:
    content = json.dumps({"path": "a.wav", "Mood": "glad", "more": 1})
    manifests = prepare(audio, content, "t.jsonl", wanted=("Mood",))
    assert read_annotations(manifests.train) == {"a.wav": {"Mood": "glad"}}
