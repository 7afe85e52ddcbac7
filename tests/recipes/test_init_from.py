"""--init_from across tasks: the encoder of one recipe's run, or of a bundle, in another recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from summarymixing_modules.bundles import export_bundle
from summarymixing_modules.bundles.initialisation import initialise_from
from summarymixing_modules.errors import InputError
from tests.recipes.tiny import TINY_SIZES, flags_for

LIBRISPEECH = Path(__file__).resolve().parents[2] / "recipes" / "LibriSpeech"
BEST_RQ = LIBRISPEECH / "SSL" / "BEST-RQ" / "hparams" / "small.yaml"
CTC = LIBRISPEECH / "ASR" / "CTC" / "hparams" / "conformer.yaml"
SMALL_CTC = CTC.with_name("small_conformer.yaml")
DECODER = LIBRISPEECH / "ASR" / "transformer" / "hparams" / "small_conformer.yaml"
RunRecipe = Callable[..., dict[str, Any]]

TINY = TINY_SIZES | {
    "codes": 32,
    "max_batch_length": 20,
    "num_buckets": 2,
    "train_splits": "[train-clean-100]",
    "test_splits": "[test-clean]",
    "avoid_if_shorter_than": 0.5,
    "training_steps": 1,
    "token_type": "librispeech_char",
    "test_beam_size": 1,
}


@pytest.fixture
def run(run_recipe: RunRecipe, tmp_path: Path) -> Callable[..., Path]:
    """Runs a recipe at tiny sizes; returns its output folder."""

    def run_in(hparams: Path, name: str, **changes: Any) -> Path:
        run_recipe(
            hparams, *flags_for(hparams, TINY, **changes), f"--output_folder={tmp_path / name}"
        )
        return tmp_path / name

    return run_in


#: A rate that moves nothing but what is 0, and that by nothing.
STILL = 1.0e-38


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether nothing was trained between the two."""
    return torch.allclose(one, other, rtol=0, atol=1e-30)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the model, in the last checkpoint."""
    folder = max((run / "save").glob("CKPT+*"))
    tensors: dict[str, torch.Tensor] = torch.load(folder / "model.ckpt", weights_only=True)
    return tensors


def test_a_recogniser_starts_from_a_pretrained_encoder(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    trained = run(BEST_RQ, "pretrained", seed=1)
    bundle = export_bundle(trained, tmp_path / "bundle")
    source = weights(trained)
    still: dict[str, Any] = {"seed": 2, "lr": STILL, "number_of_epochs": 1, "output_neurons": 29}
    still |= {"local_proj_hid_dim": "[16]", "local_proj_out_dim": 16}
    still |= {"summary_hid_dim": "[16]", "summary_out_dim": 16}
    for path in (trained, bundle):
        of_run = {"trust_run": True} if path == trained else {}
        folder = run(CTC, f"from_{path.name}", init_from=path, **still, **of_run)
        started, log = weights(folder), (folder / "log.txt").read_text()
        encoder = [name for name in started if name.startswith(("frontend.", "transformer."))]
        assert not [name for name in encoder if not same(started[name], source[name])]
        assert started["output.weight"].shape != source["output.weight"].shape
        assert "drawn anew: output" in log and "n_fft 400, this recipe's have 512" in log
    fresh = weights(run(CTC, "fresh", **still))
    assert any(not same(fresh[name], source[name]) for name in encoder)
    with pytest.raises(InputError, match="--norm_type=global"):
        run(CTC, "other_features", init_from=bundle, **still, norm_type="sentence")
    with pytest.raises(InputError, match=r"frontend.*\(4, 80, 5\)"):
        run(SMALL_CTC, "other_front_end", init_from=bundle, norm_type="global")
    with pytest.raises(InputError, match=r"(?s)--init_from=.*16.*32 is expected.*another --init"):
        run(CTC, "other_size", init_from=bundle, **still | {"d_model": 32})
    with pytest.raises(InputError, match="Linear has no encoder"):
        initialise_from(bundle, {"model": torch.nn.Linear(2, 2)}, {})


def test_recognisers_start_from_one_another(run: Callable[..., Path]) -> None:
    trained = run(SMALL_CTC, "ctc", seed=1)
    folder = run(DECODER, "decoder", init_from=trained, trust_run=True, seed=2, lr=STILL)
    log, started = (folder / "log.txt").read_text(), weights(folder)
    assert "drawn anew: ctc_output, seq_output, transformer.custom_tgt_module, tr" in log
    source = weights(trained)
    shared = [name for name in source if name.startswith(("frontend.", "transformer.encoder."))]
    assert shared and all(same(started[name], source[name]) for name in shared)
