"""A Transformer decoder (arXiv 1706.03762, §3.1) with any causal mixer where self-attention was.

With SummaryMixing it is the "Summary decoder" of arXiv 2307.07421: token t sees the running mean of
the summaries of tokens 1 … t. Cross-attention stays as it is. The state of a linear mixer does not
grow while decoding, so that a step costs the same whatever has been decoded.

Shape suffixes: B batch, U tokens, S encoder frames, D model features, H heads, E head features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

from speechbrain.lobes.models.transformer import Transformer
from speechbrain.nnet.attention import MultiheadAttention
from speechbrain.nnet.normalization import LayerNorm
from torch import Tensor, nn
from torch.nn import functional as F

from summarymixing_modules.encoders.transformer import require_mixing
from summarymixing_modules.mixers import Mixer, MixerAdapter, MixerSize, build_mixer


class LayerState(NamedTuple):
    """What one decoder layer remembers.

    Attributes:
        mixer: state of its mixer.
        key_BHSE: keys of the encoder frames.
        value_BHSE: values of the encoder frames.
    """

    mixer: Any
    key_BHSE: Tensor
    value_BHSE: Tensor


class DecoderState(NamedTuple):
    """What a decoder remembers of the tokens so far, and of the encoder frames.

    Attributes:
        layers: one for each layer.
        visible_B11S: True = an encoder frame that can be attended; None = all can.
        position: index of the next token.
    """

    layers: tuple[LayerState, ...]
    visible_B11S: Tensor | None
    position: int


class MixerDecoderLayer(Transformer.TransformerDecoderLayer):
    """A causal mixer, cross-attention and a feed-forward network.

    Args:
        d_ffn: hidden size of the feed-forward network.
        nhead: heads of the cross-attention and of the mixer.
        d_model: features D.
        dropout: everywhere.
        activation: class.
        normalize_before: normalise the input of each part ("pre-norm"), not the sum after it.
        attention_type: name of a mixer that can be causal.
        mixer_options: its options.

    Raises:
        InputError: the mixer cannot be causal, or is none.
    """

    def __init__(
        self,
        d_ffn: int,
        nhead: int,
        d_model: int,
        dropout: float = 0.0,
        activation: type[nn.Module] = nn.ReLU,
        normalize_before: bool = False,
        attention_type: str = "SummaryMixing",
        mixer_options: Mapping[str, Any] | None = None,
    ) -> None:
        require_mixing(attention_type, "a decoder layer")
        # SpeechBrain makes no attention layers for a name that it does not know.
        super().__init__(
            d_ffn,
            nhead,
            d_model,
            dropout=dropout,
            activation=activation,
            normalize_before=normalize_before,
            attention_type="none",
        )
        size = MixerSize(d_model, nhead, d_ffn, dropout, activation, causal=True)
        self.self_attn = MixerAdapter(build_mixer(attention_type, size, **(mixer_options or {})))
        self.multihead_attn = MultiheadAttention(nhead, d_model, dropout)

    @property
    def mixer(self) -> Mixer:
        """The mixer in the place of self-attention."""
        return self.self_attn.mixer

    def initial_state(self, memory_BSD: Tensor) -> LayerState:
        """The state before the first token, with the keys and values of the encoder frames."""
        attention = self.multihead_attn.att
        size = self.mixer.enc_dim
        weight, bias = attention.in_proj_weight[size:], attention.in_proj_bias[size:]
        both_BSHX = F.linear(memory_BSD, weight, bias).unflatten(-1, (2 * self.nhead, -1))
        key_BHSE, value_BHSE = both_BSHX.transpose(1, 2).chunk(2, dim=1)
        batch, device, dtype = memory_BSD.shape[0], memory_BSD.device, memory_BSD.dtype
        mixer_state = self.mixer.initial_state(batch, device=device, dtype=dtype)
        return LayerState(mixer_state, key_BHSE, value_BHSE)

    def step(
        self, x_B1D: Tensor, state: LayerState, visible_B11S: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        """Decodes one token; equal to ``forward`` on the whole prefix."""
        mixed_B1D, mixer_state = self.mixer.step(self._before(self.norm1, x_B1D), state.mixer)
        x_B1D = self._after(self.norm1, x_B1D + self.dropout1(mixed_B1D))
        read_B1D = self._attend(self._before(self.norm2, x_B1D), state, visible_B11S)
        x_B1D = self._after(self.norm2, x_B1D + self.dropout2(read_B1D))
        y_B1D = self.pos_ffn(self._before(self.norm3, x_B1D))
        x_B1D = self._after(self.norm3, x_B1D + self.dropout3(y_B1D))
        return x_B1D, state._replace(mixer=mixer_state)

    def _attend(self, x_B1D: Tensor, state: LayerState, visible_B11S: Tensor | None) -> Tensor:
        """Cross-attention with keys and values that are made already."""
        attention = self.multihead_attn.att
        size = self.mixer.enc_dim
        query_B1D = F.linear(x_B1D, attention.in_proj_weight[:size], attention.in_proj_bias[:size])
        query_BH1E = query_B1D.unflatten(-1, (self.nhead, -1)).transpose(1, 2)
        read_BH1E = F.scaled_dot_product_attention(
            query_BH1E,
            state.key_BHSE,
            state.value_BHSE,
            attn_mask=visible_B11S,
            dropout_p=attention.dropout if self.training else 0.0,
        )
        return attention.out_proj(read_BH1E.transpose(1, 2).flatten(2))

    def _before(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x) if self.normalize_before else x

    def _after(self, norm: nn.Module, x: Tensor) -> Tensor:
        return x if self.normalize_before else norm(x)


class MixerDecoder(nn.Module):
    """A stack of decoder layers and a LayerNorm, with SpeechBrain's decoder call.

    Args:
        num_layers: how many layers.
        nhead, d_ffn, d_model, dropout, activation, normalize_before, attention_type,
            mixer_options: see ``MixerDecoderLayer``.

    Example:
        >>> decoder = MixerDecoder(2, 4, 128, 64).eval()
        >>> memory_BSD, tokens_BUD = torch.rand(8, 60, 64), torch.rand(8, 9, 64)
        >>> decoder(tokens_BUD, memory_BSD)[0].shape
        torch.Size([8, 9, 64])
        >>> y_BD, state = decoder.step(tokens_BUD[:, 0], decoder.initial_state(memory_BSD))
        >>> y_BD.shape
        torch.Size([8, 64])
    """

    def __init__(
        self,
        num_layers: int,
        nhead: int,
        d_ffn: int,
        d_model: int,
        dropout: float = 0.0,
        activation: type[nn.Module] = nn.ReLU,
        normalize_before: bool = False,
        attention_type: str = "SummaryMixing",
        mixer_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.attention_type = attention_type
        self.layers = nn.ModuleList(
            MixerDecoderLayer(
                d_ffn,
                nhead,
                d_model,
                dropout,
                activation,
                normalize_before,
                attention_type,
                mixer_options,
            )
            for _ in range(num_layers)
        )
        self.norm = LayerNorm(d_model, eps=1e-6)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        pos_embs_tgt: Tensor | None = None,
        pos_embs_src: Tensor | None = None,
    ) -> tuple[Tensor, list[None], list[Tensor]]:
        """Decodes whole prefixes.

        Args:
            tgt: (B, U, D) embedded tokens, with their positions.
            memory: (B, S, D) encoder output.
            tgt_mask: must be None: the mixers are causal by themselves.
            memory_mask: (U, S) for the cross-attention, True = hidden.
            tgt_key_padding_mask: (B, U), True = padded.
            memory_key_padding_mask: (B, S), True = padded.
            pos_embs_tgt: must be None.
            pos_embs_src: must be None.

        Returns:
            output (B, U, D); a list of None, where SpeechBrain has the weights of self-attention;
            the cross-attention weights (B, U, S) of every layer.

        Raises:
            ValueError: ``tgt_mask`` or positions.
        """
        if any(given is not None for given in (tgt_mask, pos_embs_tgt, pos_embs_src)):
            raise ValueError(
                "the mixers of this decoder are causal and place tokens by themselves: leave "
                "tgt_mask, pos_embs_tgt and pos_embs_src None."
            )
        output, read = tgt, []
        for layer in self.layers:
            output, _, weights_BUS = layer(
                output,
                memory,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
            )
            read.append(weights_BUS)
        return self.norm(output), [None] * len(read), read

    def initial_state(
        self, memory_BSD: Tensor, memory_key_padding_mask: Tensor | None = None
    ) -> DecoderState:
        """The state before the first token.

        Args:
            memory_BSD: encoder output.
            memory_key_padding_mask: (B, S), True = padded.

        Returns:
            a state for ``step``. Its part that belongs to tokens does not grow with linear mixers.
        """
        visible_B11S = None
        if memory_key_padding_mask is not None:
            visible_B11S = ~memory_key_padding_mask[:, None, None]
        layers = tuple(layer.initial_state(memory_BSD) for layer in self._layers())
        return DecoderState(layers, visible_B11S, 0)

    def step(self, x_BD: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Decodes one token of every hypothesis; equal to ``forward`` on the whole prefix.

        Args:
            x_BD: the embedded token, with its position ``state.position``.
            state: from ``initial_state`` or the step before. It is not changed.

        Returns:
            output (B, D) and the next state.
        """
        x_B1D, states = x_BD[:, None], []
        for layer, layer_state in zip(self._layers(), state.layers, strict=True):
            x_B1D, layer_state = layer.step(x_B1D, layer_state, state.visible_B11S)
            states.append(layer_state)
        next_state = DecoderState(tuple(states), state.visible_B11S, state.position + 1)
        return self.norm(x_B1D)[:, 0], next_state

    def reorder(
        self, state: DecoderState, index_B: Tensor, same_memory: bool = False
    ) -> DecoderState:
        """Picks hypotheses, for beam search.

        Args:
            state: of B hypotheses.
            index_B: the old row of each new row; there may be more or fewer rows than before.
            same_memory: every new row has the encoder output of its old one (beams of one
                utterance change places), so that keys and values may stay where they are.

        Returns:
            the state of the picked hypotheses.
        """
        pick = row_picker(next(iter(self._layers())).mixer, index_B)
        layers = []
        for old in state.layers:
            new = old._replace(mixer=pick(old.mixer))
            if not same_memory:
                memory = (tensor.index_select(0, index_B) for tensor in old[1:])
                new = LayerState(new.mixer, *memory)
            layers.append(new)
        visible_B11S = state.visible_B11S
        if visible_B11S is not None and not same_memory:
            visible_B11S = visible_B11S.index_select(0, index_B)
        return DecoderState(tuple(layers), visible_B11S, state.position)

    def _layers(self) -> Iterable[MixerDecoderLayer]:
        return cast("Iterable[MixerDecoderLayer]", self.layers)


def row_picker(mixer: Mixer, index_B: Tensor) -> Callable[[Any], Any]:
    """A function that picks rows of the batch out of the states of any mixer.

    Which dimension of a tensor is the batch, if any is, shows in states of other batch sizes.

    Args:
        mixer: one that the states are of.
        index_B: the old row of each new row.

    Returns:
        state → state of the picked rows. It raises TypeError where a state holds something else
        than tensors, numbers and tuples, or more tensors than at first.
    """
    small, large = (mixer.initial_state(batch, device="cpu") for batch in (2, 3))
    return lambda state: _picked(state, small, large, index_B)


def _picked(state: Any, small: Any, large: Any, index_B: Tensor) -> Any:
    if isinstance(state, Tensor):
        sizes = zip(small.shape, large.shape, strict=True)
        dims = [dim for dim, (a, b) in enumerate(sizes) if a != b]
        return state.index_select(dims[0], index_B) if dims else state
    if isinstance(state, tuple) and len(state) == len(small):
        parts = [_picked(*p, index_B) for p in zip(state, small, large, strict=True)]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    # A tuple may grow with the stream (sizes of chunks), but only if it holds numbers.
    numbers = state if isinstance(state, tuple) else (state,)
    if all(part is None or isinstance(part, int | float) for part in numbers):
        return state
    raise TypeError(
        f"cannot pick rows out of {type(state).__name__} in the state of a mixer: it may hold "
        "tensors, numbers and tuples, and no more tensors than initial_state gives."
    )
