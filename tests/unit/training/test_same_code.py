"""What stands in several recipes on purpose is the same in all of them."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from speechbrain import Stage

from summarymixing_modules.models.asr.attention_ctc import AttentionCTCOutput
from tests.ranks import load_script

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
CTC = "LibriSpeech/ASR/CTC"
TUNING, PROBES = "LibriSpeech/SSL/fine-tuning", "MP3S"
BEST_RQ, WAV2VEC2 = "LibriSpeech/SSL/BEST-RQ", "LibriSpeech/SSL/wav2vec2"
ATTENTION, MEANING = "LibriSpeech/ASR/transformer", "SLURP/seq2seq"

SAME = [
    ("compute_objectives", {CTC: "CTCBrain", PROBES: "TranscriptBrain"}),
    ("make_scores", {CTC: "CTCBrain", TUNING: "FineTuningBrain"}),
    ("compute_forward", {BEST_RQ: "BestRQBrain", WAV2VEC2: "Wav2Vec2Brain"}),
    ("architecture", {BEST_RQ: "BestRQBrain", WAV2VEC2: "Wav2Vec2Brain"}),
]


def code_of(recipe: str, brain: str, method: str) -> str:
    """The statements of a method, without its docstring."""
    tree = ast.parse((RECIPES / recipe / "train.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == brain:
            (found,) = [n for n in node.body if getattr(n, "name", None) == method]
            assert isinstance(found, ast.FunctionDef)
            return "\n".join(ast.unparse(statement) for statement in found.body[1:])
    raise AssertionError(f"{recipe} has no {brain}")


@pytest.mark.parametrize(("method", "brains"), SAME, ids=[method for method, _ in SAME])
def test_methods_are_the_same(method: str, brains: dict[str, str]) -> None:
    first, *others = [code_of(recipe, brain, method) for recipe, brain in brains.items()]
    assert first and all(other == first for other in others)


def test_transcripts_and_meanings_have_one_loss() -> None:
    """What follows the loss differs: how the text is scored."""
    torch.manual_seed(0)
    tokens_BU = torch.tensor([[3, 4, 5], [6, 3, 0]])
    batch = SimpleNamespace(
        tokens=(tokens_BU, torch.tensor([1.0, 2 / 3])),
        tokens_eos=SimpleNamespace(data=torch.tensor([[3, 4, 5, 2], [6, 3, 2, 0]])),
    )
    output = AttentionCTCOutput(
        torch.randn(2, 9, 7).log_softmax(-1),
        torch.randn(2, 4, 7).log_softmax(-1),
        torch.zeros(0),
        torch.tensor([9, 7]),
    )
    hparams = SimpleNamespace(ctc_weight=0.3, label_smoothing=0.1)
    brain = SimpleNamespace(hparams=hparams, scores={})
    losses = [
        getattr(load_script(RECIPES / recipe / "train.py"), name).compute_objectives(
            brain, output, batch, Stage.TRAIN
        )
        for recipe, name in ((ATTENTION, "AttentionCTCBrain"), (MEANING, "MeaningBrain"))
    ]
    assert losses[0] > 0 and torch.equal(*losses)
