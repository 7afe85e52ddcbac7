"""Another mixer in a built model: what changes, what does not, and learning from the old one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder, get_lookahead_mask
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR as StockASR
from speechbrain.lobes.models.transformer.TransformerASR import make_transformer_src_mask
from speechbrain.nnet.attention import MultiheadAttention, RelPosMHAXL
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from summarymixing_modules.errors import InputError
from summarymixing_modules.mixers import SummaryMixing, mixer_names, mixer_spec
from summarymixing_modules.models.conversion.distillation import (
    LayerwiseDistillation,
    missed_variance,
)
from summarymixing_modules.models.conversion.host_adapter import HostAdapter, chunks_of_mask
from summarymixing_modules.models.conversion.swap import swap_mixer
from summarymixing_modules.models.transformer_asr import TransformerASR
from summarymixing_modules.ops.chunks import Chunks, visible_TT

D = 16
MIXING = [name for name in mixer_names() if mixer_spec(name).capabilities.mixes]


def ours(encoder_module: str = "conformer", **options: object) -> TransformerASR:
    torch.manual_seed(0)
    sizes = {"d_model": D, "nhead": 4, "num_encoder_layers": 3, "d_ffn": 40, "kernel_size": 5}
    options = {"csgu_linear_units": 24, "dropout": 0.0, **sizes, **options}
    return TransformerASR(9, 12, num_decoder_layers=0, encoder_module=encoder_module, **options)  # type: ignore[arg-type]


def stock(encoder_module: str = "conformer", **options: object) -> StockASR:
    torch.manual_seed(0)
    sizes = {"d_model": D, "nhead": 4, "num_encoder_layers": 3, "d_ffn": 40, "kernel_size": 5}
    options = {"csgu_linear_units": 24, "dropout": 0.0, "causal": False, **sizes, **options}
    options = {"num_decoder_layers": 0, "normalize_before": True, **options}
    return StockASR(9, 12, encoder_module=encoder_module, **options)


BUILDERS: dict[str, Callable[..., nn.Module]] = {"ours": ours, "stock": stock}
MODULES = ["conformer", "branchformer", "transformer"]


def features(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def others(model: nn.Module) -> dict[str, Tensor]:
    """Everything but the mixers, by name; what is computed from nothing left out."""
    slots = ("mha_layer", "self_att", "relative_positions")
    return {
        name: value.clone()
        for name, value in model.state_dict().items()
        if not any(slot in name for slot in slots)
    }


@pytest.mark.parametrize("maker", BUILDERS)
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("old", ["RelPosMHAXL", "regularMHA"])
@torch.no_grad()
def test_only_the_mixers_change(maker: str, module: str, old: str) -> None:
    model = BUILDERS[maker](module, attention_type=old).double().eval()
    before, total = others(model), sum(p.numel() for p in model.parameters())
    report = swap_mixer(model, "SummaryMixing", use_layernorm=False)
    after = others(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [one.index for one in report.layers] == [0, 1, 2]
    for one in report.layers:
        mixer = model.get_submodule(one.mixer)
        mixer = mixer.mixer if isinstance(mixer, HostAdapter) else mixer
        assert isinstance(mixer, SummaryMixing) and not mixer.training and mixer.nhead == 4
        assert (one.before.lower(), one.after) in (
            (old.lower(), "SummaryMixing"),
            ("multiheadattention", "SummaryMixing"),
        )
        # Block-diagonal f and s of 16 -> 16 -> 16 with 4 heads, a full c of 32 -> 16.
        assert one.parameters_after == 4 * (16 * 4 + 16) + (32 * 16 + 16)
        assert all(p.dtype == torch.float64 for p in mixer.parameters())
    assert report.parameters_before == total
    change = sum(one.parameters_after - one.parameters_before for one in report.layers)
    assert report.parameters_after == total + change == sum(p.numel() for p in model.parameters())
    own = {id(p) for p in report.new_parameters(model)}
    assert sum(p.numel() for p in model.parameters() if id(p) not in own) == sum(
        p.numel() for name, p in model.named_parameters() if name in before
    )
    src = features(2, 13, 12).double()
    y_BTD = model.encode(src, torch.tensor([1.0, 6 / 13]))  # type: ignore[operator]
    assert y_BTD.shape == (2, 13, D) and y_BTD.isfinite().all()
    assert "SummaryMixing" in str(report) and f"{total:,}" in str(report)


@pytest.mark.parametrize("module", MODULES)
@torch.no_grad()
def test_sizes_come_from_the_layer(module: str) -> None:
    """Heads, hidden size, dropout and activation reach the mixer; each in a host of both kinds."""
    options = {"dropout": 0.25, "d_ffn": 48, "attention_type": "RelPosMHAXL"}
    if module != "branchformer":
        options |= {"activation": nn.ReLU, "conformer_activation": nn.ReLU}
    for model in (ours(module, **options), stock(module, **options)):
        swap_mixer(model, "SummaryMixing", [0])
        mixer = next(m for m in model.modules() if isinstance(m, SummaryMixing))
        assert mixer.nhead == 4 and mixer.dropout.p == 0.25 and mixer.enc_dim == D
        wanted = nn.GELU if module == "branchformer" else nn.ReLU
        assert isinstance(mixer.activation, wanted) and mixer.training
        swap_mixer(model, "hypermixing", [0])
        hyper = next(m for m in model.modules() if type(m).__name__ == "HyperMixing")
        hidden = 4 * D if module == "branchformer" else 48
        assert hyper.first.output.weight.shape == (4, D // 4, hidden // 4)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("maker", BUILDERS)
@torch.no_grad()
def test_every_mixer_finds_its_place(name: str, maker: str) -> None:
    """In one layer, then in all: hosts go on to make, or leave out, the positions of each."""
    model = BUILDERS[maker](attention_type="RelPosMHAXL").eval()
    src = features(2, 13, 12)
    for layers in ([1], None):
        # Mamba has no heads that could tell those of its successor.
        swap_mixer(model, name, layers, nhead=4 if layers is None else None)
        y_BTD = model.encode(src, torch.tensor([1.0, 6 / 13]))  # type: ignore[operator]
        assert y_BTD.isfinite().all()
        alone = model.encode(src[1:, :6])  # type: ignore[operator]
        if maker == "ours":
            torch.testing.assert_close(y_BTD[1:, :6], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("old", ["RoPEMHA", "RelPosMHAXL", "SummaryMixing"])
@pytest.mark.parametrize("new", ["SummaryMixing", "RelPosMHAXL", "RoPEMHA"])
@torch.no_grad()
def test_a_swapped_model_is_the_one_that_is_built(old: str, new: str) -> None:
    """The same names, strictly loaded, and the same outputs; positions included."""
    model = ours(attention_type=old).eval()
    swap_mixer(model, new)
    built = ours(attention_type=new).eval()
    built.load_state_dict(model.state_dict())
    src = features(2, 11, 12)
    torch.testing.assert_close(model.encode(src), built.encode(src))
    assert model.encoder.attention_type == new


@torch.no_grad()
def test_a_trained_mixer_survives_in_the_other_layers() -> None:
    """Swapped in one layer, the other two still compute what they did."""
    for model in (ours(attention_type="RelPosMHAXL"), stock(attention_type="RelPosMHAXL")):
        model.eval()
        kept = [copy.deepcopy(layer) for layer in model.encoder.layers]  # type: ignore[union-attr]
        swap_mixer(model, "SummaryMixing", [1])
        names = [
            type(m).__name__ for m in model.modules() if isinstance(m, SummaryMixing | RelPosMHAXL)
        ]
        assert names == ["RelPosMHAXL", "SummaryMixing", "RelPosMHAXL"]
        x_BTD, positions = features(2, 9, D), features(1, 17, D)
        for index in (0, 2):
            got, _ = model.encoder.layers[index](x_BTD, pos_embs=positions)  # type: ignore[union-attr]
            want, _ = kept[index](x_BTD, pos_embs=positions)
            assert torch.equal(got, want)
        assert model.encode(features(2, 9, 12)).isfinite().all()


@torch.no_grad()
def test_relative_positions_of_the_host_are_not_used() -> None:
    """A stock host of RelPosMHAXL and one of RoPEMHA, which has no positions, then agree."""
    models = []
    for old in ("RelPosMHAXL", "RoPEMHA"):
        model = stock(attention_type=old).eval()
        torch.manual_seed(7)
        swap_mixer(model, "SummaryMixing")
        models.append(model)
    models[1].load_state_dict(models[0].state_dict(), strict=False)
    src = features(2, 9, 12)
    assert torch.equal(models[0].encode(src), models[1].encode(src))
    x_BTD = features(2, 9, D)
    alone, _ = models[0].encoder(x_BTD)
    assert torch.equal(alone, models[0].encoder(x_BTD, pos_embs=features(1, 17, D))[0])


@pytest.mark.parametrize("options", [{}, {"mode": "SummaryMixing-lite"}])
@torch.no_grad()
def test_stock_chunks_equal_stock_streaming(options: dict) -> None:
    """The dense chunk mask reaches the mixer as chunks, and streaming agrees with it."""
    model, config = stock(attention_type="RelPosMHAXL").eval(), DynChunkTrainConfig(4, 2)
    swap_mixer(model, "SummaryMixing", **options)
    src = features(2, 20, 12)
    offline = model.encode(src, dynchunktrain_config=config)
    full = model.encode(src)
    context = model.make_streaming_context(config)
    stream = [model.encode_streaming(src[:, i : i + 4], context) for i in range(0, 20, 4)]
    torch.testing.assert_close(torch.cat(stream, 1), offline, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(offline, full, atol=1e-3)


@pytest.mark.parametrize("module", ["conformer", "transformer"])
def test_causal_hosts_stay_causal(module: str) -> None:
    for maker in BUILDERS.values():
        model = maker(module, attention_type="RelPosMHAXL", causal=True).eval()
        swap_mixer(model, "SummaryMixing")
        mixers = [m for m in model.modules() if isinstance(m, SummaryMixing)]
        assert len(mixers) == 3 and all(mixer.causal for mixer in mixers)
        src = features(1, 9, 12).requires_grad_()
        (grad,) = torch.autograd.grad(model.encode(src)[0, 4, 0], src)  # type: ignore[operator]
        assert grad[0, 5:].abs().max() == 0 and (grad[0, :5].abs().amax(-1) > 0).all()


@torch.no_grad()
def test_the_decoder_of_a_stock_model_is_as_before() -> None:
    model = stock("transformer", attention_type="RelPosMHAXL", num_decoder_layers=1).eval()
    tgt, encoded = torch.randint(1, 9, (2, 5)), features(2, 9, D)
    before, _ = model.decode(tgt, encoded)
    report = swap_mixer(model, "RoPEMHA")
    assert len(report.layers) == 3
    assert torch.equal(model.decode(tgt, encoded)[0], before)
    assert model(features(2, 9, 12), tgt)[1].shape == (2, 5, D)


@torch.no_grad()
def test_bare_and_odd_layers() -> None:
    """One layer as the model, and a Transformer layer with convolutions for its feed-forward."""
    encoder = TransformerEncoder(2, 4, 40, d_model=D, ffn_type="1dcnn", dropout=0.1)
    swap_mixer(encoder, "hypermixing")
    hyper = next(m for m in encoder.modules() if type(m).__name__ == "HyperMixing")
    assert hyper.first.output.weight.shape == (4, D // 4, 40 // 4)  # type: ignore[union-attr]
    layer = stock().encoder.layers[0]
    report = swap_mixer(layer, "SummaryMixing")
    assert report.layers[0].mixer == "mha_layer" and report.layers[0].layer == ""
    assert layer(features(2, 9, D))[0].shape == (2, 9, D)
    with torch.device("meta"):
        model = ours()
    swap_mixer(model.bfloat16(), "SummaryMixing")
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


def test_heads_are_asked_for_where_none_can_be_told() -> None:
    model = ours(attention_type="mamba")
    with pytest.raises(InputError, match="Mamba in encoder.layers.0.mha_layer has no heads.*nhead"):
        swap_mixer(model, "SummaryMixing")
    report = swap_mixer(model, "SummaryMixing", nhead=2)
    mixer = model.get_submodule(report.layers[2].mixer)
    assert isinstance(mixer, SummaryMixing) and mixer.nhead == 2


def test_notes_say_when_order_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    blind = ours("transformer", attention_type="RoPEMHA")
    with caplog.at_level("WARNING"):
        report = swap_mixer(blind, "SummaryMixing")
    assert "encoder.layers.0, SummaryMixing may not know the order" in report.notes[0]
    assert report.notes[0] in caplog.text and report.notes[0] in str(report)
    assert swap_mixer(stock(attention_type="RelPosMHAXL"), "regularMHA").notes
    assert not swap_mixer(ours(attention_type="RelPosMHAXL"), "SummaryMixing").notes
    assert not swap_mixer(stock("transformer"), "SummaryMixing").notes
    assert not swap_mixer(ours(absolute_positions=True), "regularMHA").notes


def test_what_is_refused_changes_nothing() -> None:
    model = ours(attention_type="RelPosMHAXL")
    before = copy.deepcopy(model.state_dict())
    for message, arguments, options in (
        ("unknown attention_type 'SumaryMixing'.*did you mean", ("SumaryMixing",), {}),
        ("has no option 'modes'.*did you mean", ("SummaryMixing",), {"modes": "x"}),
        (r"layers=\[3\] must name layers from 0 to 2", ("SummaryMixing", [3]), {}),
        (r"layers=\[-1, 0\] must name layers", ("SummaryMixing", [0, -1]), {}),
        (r"layers=\[\] must name layers", ("SummaryMixing", []), {}),
        ("cnnonly is the absence of a mixer", ("cnnonly",), {}),
        ("nhead=5", ("SummaryMixing",), {"nhead": 5}),
    ):
        with pytest.raises(InputError, match=message):
            swap_mixer(model, *arguments, **options)  # type: ignore[arg-type]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(InputError, match="Linear holds no layer.*ConformerEncoderLayer, Branch"):
        swap_mixer(nn.Linear(2, 2), "SummaryMixing")
    with pytest.raises(InputError, match="layer encoder.layers.0 was built without a mixer"):
        swap_mixer(ours(attention_type="cnnonly"), "SummaryMixing")


@pytest.mark.parametrize("length", [1, 7, 12])
@pytest.mark.parametrize("chunk_size", [1, 3, 12, 20])
@pytest.mark.parametrize("left", [None, 0, 1, 2])
def test_masks_are_read_back(length: int, chunk_size: int, left: int | None) -> None:
    config = DynChunkTrainConfig(chunk_size, left)
    mask = make_transformer_src_mask(torch.zeros(1, length, 2), dynchunktrain_config=config)
    chunks = chunks_of_mask(mask)
    assert torch.equal(visible_TT(length, chunks), ~mask)
    assert torch.equal(visible_TT(length, Chunks(chunk_size, left)), ~mask)
    causal = get_lookahead_mask(torch.zeros(1, length, 2))
    assert torch.equal(visible_TT(length, chunks_of_mask(causal)), causal == 0)


def test_masks_that_are_no_chunks_are_refused() -> None:
    model = stock(attention_type="RoPEMHA")
    swap_mixer(model, "SummaryMixing")
    adapter, x_BTD = model.encoder.layers[0].mha_layer, features(2, 6, D)
    diagonal = torch.eye(6, dtype=torch.bool)
    for message, mask in (
        ("other than a causal one", diagonal),
        ("other than a causal one", torch.ones(6, 6).tril(-1).bool()),
        ("other than a causal one", torch.ones(6, 6, dtype=torch.bool)),
        ("adds biases to scores", 0.5 * diagonal.float()),
        (r"attn_mask is \(8, 6, 6\)", torch.zeros(8, 6, 6, dtype=torch.bool)),
    ):
        with pytest.raises(InputError, match=message):
            adapter(x_BTD, x_BTD, x_BTD, attn_mask=mask)


def hooks_in(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_distillation_teaches_the_new_mixers() -> None:
    """Only they train, on fresh noise at every step, and come near attention on noise not seen.

    What attention puts out has no activation; with one after c, SummaryMixing stays above 1 here.
    """
    torch.manual_seed(0)
    teacher = ours(attention_type="RelPosMHAXL", num_encoder_layers=2).eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    report = swap_mixer(student, "SummaryMixing", combiner_activation=False, use_layernorm=False)
    before, steps = others(student), 300
    optimizer = torch.optim.Adam(report.new_parameters(student), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    lengths = torch.tensor([10, 10, 8, 5])
    padding, test = torch.arange(10)[None] >= lengths[:, None], features(4, 10, 12)
    with LayerwiseDistillation(teacher, student, [one.mixer for one in report.layers]) as distil:

        def loss_on(src: Tensor) -> Tensor:
            with torch.no_grad():
                teacher.encode(src, lengths / 10)
            student.encode(src, lengths / 10)
            return distil.loss(padding)

        first = loss_on(test).item()
        for _ in range(steps):
            optimizer.zero_grad()
            loss_on(torch.randn(4, 10, 12)).backward()
            optimizer.step()
            schedule.step()
        last = loss_on(test).item()
        assert hooks_in(teacher) == hooks_in(student) == 2
    print(f"distillation loss on unseen noise: {first:.3f} -> {last:.3f}")
    assert last < first / 5 and last < 0.7
    assert hooks_in(teacher) == hooks_in(student) == 0
    after = others(student)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_distillation_of_layers_left_out_by_layer_drop() -> None:
    torch.manual_seed(0)
    teacher = ours().eval()
    student = ours(layerdrop_prob=0.5).train()
    names = [f"encoder.layers.{index}" for index in range(3)]
    seen = set()
    with LayerwiseDistillation(teacher, student, names) as distil:
        for _ in range(8):
            teacher.encode(features(1, 7, 12))
            student.encode(features(1, 7, 12))
            losses = distil.losses() if distil._outputs["student"] else {}
            seen.add(len(losses))
            assert all(name in names and loss.isfinite() for name, loss in losses.items())
    assert len(seen) > 1


def test_missed_variance() -> None:
    teacher, padding = features(2, 6, 4), torch.arange(6)[None] >= torch.tensor([6, 2])[:, None]
    real = teacher[~padding]
    constant = real.mean(0).expand(2, 6, 4)
    assert missed_variance(teacher, teacher, padding) == 0
    torch.testing.assert_close(missed_variance(constant, teacher, padding), torch.tensor(1.0))
    loud = teacher.clone()
    loud[padding] = 1e6
    assert missed_variance(loud, teacher, padding) == 0
    noisy = teacher + 0.1
    want = 0.01 * real.numel() / (real - real.mean(0)).square().sum()
    torch.testing.assert_close(missed_variance(noisy, teacher, padding), want)
    assert missed_variance(noisy.bfloat16(), teacher.bfloat16(), padding).dtype == torch.float32
    none = torch.ones(2, 6, dtype=torch.bool)
    assert missed_variance(noisy, teacher, none) == 0
    with pytest.raises(ValueError, match="both must see the same batch"):
        missed_variance(teacher[:, :3], teacher)


def test_what_distillation_refuses() -> None:
    teacher, student = ours(), ours()
    names = ["encoder.layers.0.mha_layer"]
    with pytest.raises(InputError, match="one model: take copy.deepcopy"):
        LayerwiseDistillation(teacher, teacher, names)
    with pytest.raises(InputError, match="modules is empty"):
        LayerwiseDistillation(teacher, student, [])
    with pytest.raises(InputError, match="the teacher has no module 'encoder.layers.9'"):
        LayerwiseDistillation(teacher, student, ["encoder.layers.9"])
    distil = LayerwiseDistillation(teacher, student, names)
    with pytest.raises(InputError, match="training mode.*eval"):
        distil.__enter__()
    assert hooks_in(teacher) == hooks_in(student) == 0
    teacher.eval()
    with distil, pytest.raises(RuntimeError, match="nothing to compare"):
        distil.loss()
    with pytest.raises(ZeroDivisionError), distil:
        _ = 1 / 0
    assert hooks_in(teacher) == hooks_in(student) == 0


def test_stock_attention_is_known_by_its_class() -> None:
    report = swap_mixer(stock("conformer", attention_type="regularMHA"), "SummaryMixing", [2])
    attention = MultiheadAttention(4, D)
    assert report.layers[0].before == type(attention).__name__
    assert report.layers[0].parameters_before == sum(p.numel() for p in attention.parameters())
