"""--init_from of a bundle: of the same model all comes, of the same tokens, else the encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from summarymixing_modules.bundles.initialisation import initialise_from
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.data.text.tokenizers import CharTokenizer, Tokenizer
from summarymixing_modules.models import CTCModel
from summarymixing_modules.models.describe import build


@pytest.mark.parametrize(
    ("tokenizer", "new"),
    [
        (CharTokenizer(), []),
        (CharTokenizer("abcdefghijklmnopqrstuvwxyz12"), ["output"]),  # as many, and others
        (None, ["output"]),
    ],
    ids=["the same", "others", "none"],
)
def test_the_output_layer_comes_with_the_same_tokens(
    content: RunContent, bundle: Path, tokenizer: Tokenizer | None, new: list[str]
) -> None:
    torch.manual_seed(1)
    model = build(content.config["model"])
    assert isinstance(model, CTCModel)
    initialise_from(bundle, {"model": model}, {}, tokenizer=tokenizer)
    other = {
        name.partition(".")[0]
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor, content.tensors[f"model.{name}"])
    }
    assert sorted(other) == new
