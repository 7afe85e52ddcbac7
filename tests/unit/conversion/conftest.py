"""Stock models of SpeechBrain with random weights, kept as SpeechBrain keeps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from torch import Tensor, nn

TOKENS, MELS = 12, 20

_MODEL = """
sample_rate: 16000
n_mels: 20
d_model: 16
output_neurons: 12
attention_type: RelPosMHAXL
encoder_module: conformer
num_decoder_layers: 0
activation: !name:torch.nn.GELU
blank_index: 0
bos_index: 1
eos_index: 2
compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: !ref <sample_rate>
    n_fft: 512
    n_mels: !ref <n_mels>
    win_length: 32
normalize: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    update_until_epoch: 4
CNN: !new:speechbrain.lobes.models.convolution.ConvolutionFrontEnd
    input_shape: (8, 10, 20)
    num_blocks: 2
    num_layers_per_block: 1
    out_channels: (6, 4)
    kernel_sizes: (3, 3)
    strides: (2, 2)
    residuals: (False, False)
Transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
    input_size: 20
    tgt_vocab: !ref <output_neurons>
    d_model: !ref <d_model>
    nhead: 2
    num_encoder_layers: 2
    num_decoder_layers: !ref <num_decoder_layers>
    d_ffn: 32
    kernel_size: 5
    csgu_linear_units: 24
    activation: !ref <activation>
    encoder_module: !ref <encoder_module>
    attention_type: !ref <attention_type>
    normalize_before: True
    causal: False
enc: !new:speechbrain.lobes.models.transformer.TransformerASR.EncoderWrapper
    transformer: !ref <Transformer>
ctc_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <d_model>
    n_neurons: !ref <output_neurons>
seq_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <d_model>
    n_neurons: !ref <output_neurons>
epoch_counter: !new:speechbrain.utils.epoch_loop.EpochCounter
    limit: 3
checkpointer: !new:speechbrain.utils.checkpoints.Checkpointer
    checkpoints_dir: SAVE
    recoverables:
        model: !ref <model>
        normalizer: !ref <normalize>
        counter: !ref <epoch_counter>
"""
_LISTS = {
    "attention": "[!ref <CNN>, !ref <Transformer>, !ref <seq_lin>, !ref <ctc_lin>]",
    "ctc": "[!ref <CNN>, !ref <Transformer>, !ref <ctc_lin>]",
    "encoder": "[!ref <CNN>, !ref <enc>]",
    "transducer": "[!ref <CNN>, !ref <enc>, !ref <emb>, !ref <dec>, !ref <proj_enc>, "
    "!ref <proj_dec>, !ref <proj_ctc>, !ref <transducer_lin>]",
    "best-rq": "[!ref <CNN>, !ref <enc>, !ref <Quantizer>, !ref <linear>]",
}
_MORE = {
    "transducer": """
emb: !new:speechbrain.nnet.embedding.Embedding
    num_embeddings: !ref <output_neurons>
    consider_as_one_hot: True
    blank_id: !ref <blank_index>
dec: !new:speechbrain.nnet.RNN.LSTM
    input_shape: [null, null, !ref <output_neurons> - 1]
    hidden_size: 8
proj_enc: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <d_model>
    n_neurons: 10
    bias: False
proj_dec: !new:speechbrain.nnet.linear.Linear
    input_size: 8
    n_neurons: 10
    bias: False
proj_ctc: !new:speechbrain.nnet.linear.Linear
    input_size: 10
    n_neurons: !ref <output_neurons>
transducer_lin: !new:speechbrain.nnet.linear.Linear
    input_size: 10
    n_neurons: !ref <output_neurons>
    bias: False
Tjoint: !new:speechbrain.nnet.transducer.transducer_joint.Transducer_joint
    joint: sum
    nonlinearity: !ref <activation>
lm_model: !new:speechbrain.lobes.models.RNNLM.RNNLM
    output_neurons: !ref <output_neurons>
    embedding_dim: 6
    activation: !name:torch.nn.LeakyReLU
    dropout: 0.0
    rnn_layers: 2
    rnn_neurons: 9
    dnn_blocks: 1
    dnn_neurons: 7
    return_hidden: True
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        lm: !ref <lm_model>
""",
    "best-rq": """
Quantizer: !new:speechbrain.nnet.quantisers.RandomProjectionQuantizer
    input_dim: 80
    cb_dim: 4
    cb_vocab: 16
linear: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <d_model>
    n_neurons: 16
""",
}
_PUBLISHED = """
lm_model: !new:speechbrain.lobes.models.transformer.TransformerLM.TransformerLM
    vocab: !ref <output_neurons>
    d_model: 16
    nhead: 2
    num_encoder_layers: 2
    num_decoder_layers: 0
    d_ffn: 32
    activation: !name:torch.nn.GELU
    normalize_before: False
tokenizer: !new:sentencepiece.SentencePieceProcessor
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        asr: !ref <model>
        lm: !ref <lm_model>
        tokenizer: !ref <tokenizer>
"""


@dataclass(frozen=True)
class Stock:
    """A model of SpeechBrain's, and where it is kept.

    Attributes:
        folder: of the experiment, with hyperparams.yaml.
        made: what the YAML file makes.
    """

    folder: Path
    made: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.made[key]

    def features(self, samples_BL: Tensor) -> Tensor:
        """Normalised, as its evaluation has them; all samples are real."""
        features_BTF = self.made["compute_features"](samples_BL)
        return self.made["normalize"](features_BTF, torch.ones(len(samples_BL)))

    def tokenizer(self) -> sentencepiece.SentencePieceProcessor:
        """Its tokens."""
        return sentencepiece.SentencePieceProcessor(
            model_file=str(self.folder / "save" / "12_char.model")
        )

    def language_model(self) -> TransformerLM:
        """The one that it is published with."""
        torch.manual_seed(2)
        sizes = {"d_model": 16, "nhead": 2, "num_encoder_layers": 2, "d_ffn": 32}
        model = TransformerLM(TOKENS, num_decoder_layers=0, activation=nn.GELU, **sizes)
        randomise(model)
        return model

    def publish(self, folder: Path) -> Path:
        """A folder as those of recognisers that SpeechBrain publishes."""
        (saved,) = self.folder.glob("save/CKPT*")
        folder.mkdir()
        text = (self.folder / "hyperparams.yaml").read_text()
        (folder / "hyperparams.yaml").write_text(text + _PUBLISHED)
        for name, source in (
            ("asr.ckpt", saved / "model.ckpt"),
            ("normalizer.ckpt", saved / "normalizer.ckpt"),
            ("tokenizer.ckpt", self.folder / "save" / "12_char.model"),
        ):
            (folder / name).write_bytes(source.read_bytes())
        torch.save(self.language_model().state_dict(), folder / "lm.ckpt")
        return folder


def randomise(module: nn.Module) -> None:
    """Weights, and statistics of BatchNorm, of which none is at its start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    module.eval()


def tokenizer_model(path: Path) -> None:
    """A SentencePiece model of TOKENS characters with marks at 1 and 2."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abcdefgh abc", "hgfedcba"] * 4),
        model_prefix=str(path.with_suffix("")),
        model_type="char",
        vocab_size=TOKENS,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        minloglevel=2,
    )
    path.with_suffix(".vocab").unlink()


@pytest.fixture
def stock(tmp_path: Path) -> Callable[..., Stock]:
    """A model by its kind, with keys of the YAML file that are to be others."""

    def make(kind: str, **keys: str) -> Stock:
        torch.manual_seed(0)
        folder = tmp_path / "experiment"
        text = _MODEL.replace("SAVE", str(folder / "save")) + _MORE.get(kind, "")
        text += f"model: !new:torch.nn.ModuleList\n    - {_LISTS[kind]}\n"
        for key, value in keys.items():
            lines = text.splitlines()
            at = next(n for n, line in enumerate(lines) if line.lstrip().startswith(f"{key}: "))
            lines[at] = f"{lines[at].split(key)[0]}{key}: {value}"
            text = "\n".join(lines)
        (folder / "save").mkdir(parents=True)
        (folder / "hyperparams.yaml").write_text(text)
        made = load_hyperpyyaml(text)
        randomise(made["model"])
        made["normalize"](torch.randn(4, 50, MELS) * 2 - 5, torch.ones(4), epoch=0)
        made["normalize"].eval()
        made["checkpointer"].save_checkpoint()
        tokenizer_model(folder / "save" / "12_char.model")
        return Stock(folder, made)

    return make
