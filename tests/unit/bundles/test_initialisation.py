"""--init_from of a bundle: of the same model all comes, of the same tokens, else the encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG

from summarymixing_modules.bundles.initialisation import initialise_from
from summarymixing_modules.bundles.run import RunContent
from summarymixing_modules.data.text.tokenizers import CharTokenizer, Tokenizer
from summarymixing_modules.models import CTCModel
from summarymixing_modules.models.describe import build
from summarymixing_modules.training.run.checkpoints import RANKING, AtomicCheckpointer


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


@pytest.mark.parametrize("order", ["min_key", "max_key"])
def test_the_best_of_a_run_that_is_in_the_middle_of_an_epoch(order: str, tmp_path: Path) -> None:
    """As that run ranks its checkpoints; the newest, within an epoch, says nothing about it."""
    layer = torch.nn.Linear(1, 1, bias=False)
    checkpointer = AtomicCheckpointer(tmp_path / "save", {"model": layer})
    for weight, score in ((1.0, 10.0), (2.0, 30.0), (3.0, 20.0)):
        layer.weight.data.fill_(weight)
        checkpointer.save_checkpoint({RANKING: {order: "WER"}, "WER": score})
    layer.weight.data.fill_(4.0)
    checkpointer.save_checkpoint({INTRA_EPOCH_CKPT_FLAG: True}, end_of_epoch=False)
    own = torch.nn.Linear(1, 1, bias=False)
    initialise_from(tmp_path, {"model": own}, {})
    assert own.weight.item() == (1.0 if order == "min_key" else 2.0)
