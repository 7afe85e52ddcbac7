"""The model card of a bundle: what it is, what it scored, how to use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from summarymixing_modules.bundles.kinds import CLASSIFIER, ENCODER, RECOGNISER, kind_of
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.text_tables import markdown, plus_minus
from summarymixing_modules.training.scores.test_sets import interval_of, missing_utterances

_CARD = """\
---
license: other
library_name: summarymixing-modules
tags:
- {tag}
- summarymixing
---

# {name}

{what}
with the token mixer {mixer}, {parameters:,} parameters, {origin}.

{use}
## Figures of the training run

{figures}

## Files

Weights and feature statistics: model.safetensors. Description of the model: config.json. SHA-256
of every file: manifest.json. Nothing in them is code. Audio is converted to {rate} Hz, mono.
{streaming}
Set the licence of this card to what the training data allows.
"""

_TRAINED = """\
trained with
[summarymixing-modules](https://arxiv.org/abs/2307.07421) {version} and exported from the mean of
{averaged} checkpoint(s)"""
_CONVERTED = """\
converted by
[summarymixing-modules](https://arxiv.org/abs/2307.07421) {version} from the checkpoint {source} of
SpeechBrain"""

_RECOGNISER = """\
    summarymixing transcribe speech.wav --model {name}

```python
from summarymixing_modules.inference import Recognizer

for transcript in Recognizer.from_path("{name}").transcribe(["speech.wav"]):
    print(transcript.text)
```
"""

_CLASSIFIER = """\
    summarymixing classify speech.wav --model {name}

```python
from summarymixing_modules.inference import Classifier

for found in Classifier.from_path("{name}").classify(["speech.wav"]):
    print({{task: classes[0].label for task, classes in found.tasks.items()}})
```

It tells {labels}. A recipe of another task with the same mixer and sizes starts from its encoder
with `--init_from={name}`.
"""

_ENCODER = """\
It writes no text by itself. Fine-tune it with the recipe recipes/LibriSpeech/SSL/fine-tuning:

    python train.py hparams/base.yaml --data_folder=/data/LibriSpeech --encoder={name}

start a recipe of another task with the same mixer and sizes from it, with `--init_from={name}`, or
take what its layers say about padded audio, lengths in samples:

```python
import torch
from summarymixing_modules.bundles import SSLEncoder

encoder = SSLEncoder.from_bundle("{name}").freeze()
samples_BL, lengths_B = torch.rand(2, {rate}), torch.tensor([{rate}, {rate} // 2])
hidden = encoder(samples_BL, lengths_B)  # .states, .output_BTD, .lengths_B
```
"""


#: Entries of result.json that a card tells besides the metrics.
_OF_TRAINING = ("optimizer_steps", "audio_hours_seen", "train_seconds", "real_time_factor")
_OF_MACHINE = ("device_name", "precision", "git_commit", "date")


@dataclass(frozen=True)
class _Words:
    """What a card says about a kind of model."""

    tag: str
    what: str
    use: str
    note: str


_WORDS = {
    RECOGNISER: _Words(
        "automatic-speech-recognition",
        "A speech recognition model",
        _RECOGNISER,
        "Error rates are in percent, on the test sets of the run.",
    ),
    ENCODER: _Words(
        "self-supervised-speech",
        "An encoder of speech, pre-trained without transcripts",
        _ENCODER,
        "On the validation set of the run: how well hidden speech was told, in percent. Of a tuned "
        "encoder: the scores of its task, on the test sets.",
    ),
    CLASSIFIER: _Words(
        "audio-classification",
        "A classifier of utterances",
        _CLASSIFIER,
        "On the test sets of the run: accuracies in percent.",
    ),
}


def model_card(content: RunContent, name: str) -> str:
    """README.md of a bundle, with the figures of the run's result.json.

    Args:
        content: of the run.
        name: of the bundle.
    """
    config, kind = content.config, kind_of(content.config)
    words = _WORDS[kind]
    model = config["trained_as"] if kind == ENCODER else config["model"]["class"]
    labels = "; ".join(f"{len(n)} classes of {t}" for t, n in config.get("labels", {}).items())
    mixer = config["mode"] if config["attention_type"] == "SummaryMixing" else None
    return _CARD.format(
        tag=words.tag,
        name=name,
        what=f"{words.what} ({model}),",
        mixer=mixer or config["attention_type"],
        parameters=sum(t.numel() for n, t in content.tensors.items() if n.startswith("model.")),
        origin=_origin(config),
        use=words.use.format(name=name, labels=labels, rate=config["sample_rate"]),
        figures=_figures(content.result, words.note),
        rate=config["sample_rate"],
        streaming=_streaming(config["streaming"]) if kind == RECOGNISER else "",
    )


def _origin(config: dict[str, Any]) -> str:
    version, source = config["summarymixing_modules"], config.get("converted_from")
    if source is not None:
        return _CONVERTED.format(version=version, source=source)
    return _TRAINED.format(version=version, averaged=config["averaged_checkpoints"])


def _streaming(trained_with_chunks: bool) -> str:
    if trained_with_chunks:
        return "Trained with dynamic chunks: it streams (`transcribe --streaming`).\n"
    return "Trained with full context only; streaming would cost accuracy.\n"


def _figures(result: dict[str, Any], note: str) -> str:
    metrics = result.get("metrics") or {}
    found = {**metrics, **{key: result.get(key) for key in _OF_TRAINING}}
    rows = [
        (
            key,
            str(value)
            if key == "optimizer_steps"
            else plus_minus(f"{value:.4g}", interval_of(result.get("intervals"), key)),
        )
        for key, value in found.items()
        if value is not None
    ]
    if result.get("intervals"):
        note = f"{note} ± is half of a 95 % interval."
    if missing := missing_utterances(result):
        note = f"{note} Of parts of test sets: {missing}."
    rows += [(key, str(result[key])) for key in _OF_MACHINE if result.get(key)]
    if not rows:
        return "The run left no result.json: it was not evaluated."
    return f"{markdown([('what', 'value'), *rows])}\n\n{note}"
