"""The model card of a bundle: what it is, what it scored, how to use it."""

from __future__ import annotations

from typing import Any

from summarymixing_modules.bundles.run import RunContent

_CARD = """\
---
license: other
library_name: summarymixing-modules
tags:
- automatic-speech-recognition
- summarymixing
---

# {name}

A speech recognition model ({cls}) with the token mixer {mixer}, {parameters:,} parameters, trained
with [summarymixing-modules](https://arxiv.org/abs/2307.07421) {version} and exported from the mean
of {averaged} checkpoint(s).

    summarymixing transcribe speech.wav --model {name}

```python
from summarymixing_modules.inference import Recognizer

for transcript in Recognizer.from_path("{name}").transcribe(["speech.wav"]):
    print(transcript.text)
```

## Figures of the training run

{figures}

## Files

Weights and feature statistics: model.safetensors. Description of the model: config.json. SHA-256
of every file: manifest.json. Nothing in them is code. Audio is converted to {rate} Hz, mono.
{streaming}
Set the licence of this card to what the training data allows.
"""


def model_card(content: RunContent, name: str) -> str:
    """README.md of a bundle, with the figures of the run's result.json.

    Args:
        content: of the run.
        name: of the bundle.
    """
    config = content.config
    mixer = config["mode"] if config["attention_type"] == "SummaryMixing" else None
    return _CARD.format(
        name=name,
        cls=config["model"]["class"],
        mixer=mixer or config["attention_type"],
        parameters=sum(t.numel() for n, t in content.tensors.items() if n.startswith("model.")),
        version=config["summarymixing_modules"],
        averaged=config["averaged_checkpoints"],
        figures=_figures(content.result),
        rate=config["sample_rate"],
        streaming=(
            "Trained with dynamic chunks: it streams (`transcribe --streaming`).\n"
            if config["streaming"]
            else "Trained with full context only; streaming would cost accuracy.\n"
        ),
    )


def _figures(result: dict[str, Any]) -> str:
    metrics = result.get("metrics") or {}
    rows = [(name, f"{value:.4g}") for name, value in metrics.items() if value is not None]
    for key in ("optimizer_steps", "audio_hours_seen", "train_seconds", "real_time_factor"):
        if result.get(key) is not None:
            rows.append((key, f"{result[key]:.4g}" if key != "optimizer_steps" else result[key]))
    for key in ("device_name", "precision", "git_commit", "date"):
        if result.get(key):
            rows.append((key, result[key]))
    if not rows:
        return "The run left no result.json: it was not evaluated."
    lines = ["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines) + "\n\nError rates are in percent, on the test sets of the run."
