"""Speed perturbation and SpecAugment of which padding is no part.

The policies are SpeechBrain's, which the papers trained with, but its modules see the padded batch:
masks are filled with the mean of the whole tensor and fall into padding, warping stretches the
longest utterance and pulls padding into the others, resampling rings past the last sample. Here
each utterance is augmented as if it were alone, and padding stays zero. The random numbers come
from the CPU, in one tensor for a batch: no GPU is waited for, and the first utterance gets the same
ones whatever stands beside it.

Both are called as SpeechBrain's ``Augmenter`` is, with relative lengths, and return new ones.

Shape suffixes: B batch, L samples, T frames, F features, M masks, N positions (T or F).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from speechbrain.augment.time_domain import DropChunk, DropFreq
from torch import Tensor, nn
from torchaudio.transforms import Resample

from summarymixing_modules.errors import InputError
from summarymixing_modules.models.features.frontend import lengths_to_padding
from summarymixing_modules.ops.summary import masked

#: Of cubic convolution (Keys, 1981), as in torch's "bicubic".
_CUBIC = -0.75


class SpeedPerturbation(nn.Module):
    """Plays a batch at a speed drawn for it, by resampling (Ko et al., Interspeech 2015).

    Args:
        speeds: in percent, each as likely as the others; 100 leaves the audio as it is.

    Raises:
        InputError: a speed is no whole number from 1 on, or there is none.
    """

    def __init__(self, speeds: Sequence[int] = (95, 100, 105)) -> None:
        super().__init__()
        if not speeds or not all(isinstance(speed, int) and speed >= 1 for speed in speeds):
            raise InputError(f"speeds={speeds}: give whole numbers of percent, such as [95, 105].")
        self.speeds = tuple(speeds)
        self.resamplers = nn.ModuleList(Resample(speed, 100) for speed in speeds)

    def forward(self, samples_BL: Tensor, share_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio of 100 · L / speed samples, zero where it is padding, and shares of real samples.

        Args:
            samples_BL: audio.
            share_B: share of real samples.
        """
        chosen = int(torch.randint(len(self.speeds), ()))
        speed, before = self.speeds[chosen], samples_BL.shape[1]
        resampler = self.resamplers[chosen].to(samples_BL.device)
        # To whole steps of the resampler, which rounds other lengths in float32.
        samples_BL = resampler(nn.functional.pad(samples_BL, (0, -before % speed)))
        after = -(-100 * before // speed)
        samples_B = -(-100 * absolute_lengths(share_B, before) // speed)
        padding_BL = lengths_to_padding(samples_B, after)
        return samples_BL[:, :after].masked_fill(padding_BL, 0.0), samples_B / after


class WithOriginals(nn.Module):
    """Utterances as they are, and after them the same augmented: twice as many.

    As SpeechBrain's ``Augmenter`` with ``concat_original``; whoever has targets repeats them.

    Args:
        speed: plays them at another speed.
        drop_freq: then drops frequencies, SpeechBrain's ``DropFreq``.
        drop_chunk: and pieces of the audio, its ``DropChunk``.
    """

    def __init__(self, speed: SpeedPerturbation, drop_freq: DropFreq, drop_chunk: DropChunk):
        super().__init__()
        self.speed, self.drop_freq, self.drop_chunk = speed, drop_freq, drop_chunk

    def forward(self, samples_BL: Tensor, share_B: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (2·B, L) and shares of real samples.

        Args:
            samples_BL: audio.
            share_B: share of real samples.
        """
        augmented_BL, augmented_B = self.speed(samples_BL, share_B)
        augmented_BL = self.drop_chunk(self.drop_freq(augmented_BL), augmented_B)
        both = samples_BL, augmented_BL
        longest = max(audio.shape[1] for audio in both)
        padded = [nn.functional.pad(audio, (0, longest - audio.shape[1])) for audio in both]
        shares = share_B * samples_BL.shape[1], augmented_B * augmented_BL.shape[1]
        return torch.cat(padded), torch.cat(shares) / longest


class SpecAugment(nn.Module):
    """Masks in time and frequency and a warp of time (arXiv 1904.08779, §2), in SpeechBrain's way.

    A mask begins anywhere in the utterance (or in the bands), is ``low`` to ``high − 1`` wide and
    ends with the utterance at the latest; masks may overlap. After them, time is warped: frame c is
    moved by up to ``warp_window`` frames and both sides are stretched evenly (bicubic).

    Args:
        time_drop_count: masks in time, always that many; 0 for none.
        time_drop_low: frames of the shortest.
        time_drop_high: one more than the frames of the longest, as in SpeechBrain.
        freq_drop_count, freq_drop_low, freq_drop_high: likewise, in bands.
        replace: "mean" fills masks with the mean of the utterance, "zeros" with zero.
        warp_window: frames; 0 for no warp. Utterances of at most twice as many are not warped.

    Raises:
        InputError: no such ``replace``, a negative count or window, or a ``low`` that is negative
            or not below its ``high``.
    """

    def __init__(
        self,
        time_drop_count: int = 4,
        time_drop_low: int = 15,
        time_drop_high: int = 25,
        freq_drop_count: int = 4,
        freq_drop_low: int = 10,
        freq_drop_high: int = 20,
        replace: str = "mean",
        warp_window: int = 5,
    ) -> None:
        super().__init__()
        _check_drops("time", time_drop_count, time_drop_low, time_drop_high)
        _check_drops("freq", freq_drop_count, freq_drop_low, freq_drop_high)
        if replace not in ("mean", "zeros"):
            raise InputError(f"replace={replace!r} of SpecAugment must be mean or zeros.")
        if warp_window < 0:
            raise InputError(f"warp_window={warp_window} of SpecAugment: give frames, 0 for none.")
        self.time_drop_count, self.freq_drop_count = time_drop_count, freq_drop_count
        self.time_widths = time_drop_low, time_drop_high
        self.freq_widths = freq_drop_low, freq_drop_high
        self.replace, self.warp_window = replace, warp_window

    @property
    def draws(self) -> int:
        """Random numbers that an utterance takes."""
        return 2 * (self.time_drop_count + self.freq_drop_count + 1)

    def forward(self, x_BTF: Tensor, share_B: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented features, zero where they are padding, and the same shares.

        Args:
            x_BTF: features; what stands in padded frames does not matter.
            share_B: share of real frames.
        """
        batch, frames, bands = x_BTF.shape
        lengths_B = absolute_lengths(share_B, frames)
        draws = torch.rand(batch, self.draws).to(x_BTF.device, non_blocking=True)
        x_BTF = masked(x_BTF, lengths_to_padding(lengths_B, frames))
        drawn = draws.split([2 * self.time_drop_count, 2 * self.freq_drop_count, 2], dim=1)
        dropped_BT = _drops(drawn[0], lengths_B, frames, *self.time_widths)
        bands_B = torch.full_like(lengths_B, bands)
        dropped_BF = _drops(drawn[1], bands_B, bands, *self.freq_widths)
        fill_B11 = self._fill(x_BTF, lengths_B)
        x_BTF = torch.where(dropped_BT[:, :, None] | dropped_BF[:, None], fill_B11, x_BTF)
        if self.warp_window:
            x_BTF = _warped(x_BTF, lengths_B, *_warp(drawn[2], lengths_B, self.warp_window))
        # Masks were filled in padded frames, too.
        return masked(x_BTF, lengths_to_padding(lengths_B, frames)), share_B

    def _fill(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """What masks are filled with, (B, 1, 1)."""
        if self.replace == "zeros":
            return x_BTF.new_zeros(x_BTF.shape[0], 1, 1)
        values_B = lengths_B.clamp(min=1) * x_BTF.shape[2]
        return (x_BTF.sum(dim=(1, 2)) / values_B)[:, None, None]


def absolute_lengths(share_B: Tensor, length: int) -> Tensor:
    """Real samples or frames from SpeechBrain's relative lengths."""
    return (share_B * length).round().long()


def _check_drops(axis: str, count: int, low: int, high: int) -> None:
    if count < 0 or not 0 <= low < high:
        raise InputError(
            f"{axis}_drop_count={count}, {axis}_drop_low={low}, {axis}_drop_high={high} of "
            "SpecAugment: the count must not be negative, and masks of low to high - 1 need a high "
            "above low."
        )


def _scaled(draws: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """Whole numbers from low to high - 1 from numbers in [0, 1)."""
    return (low + (draws * (high - low)).floor()).long()


def _drops(draws_B2M: Tensor, lengths_B: Tensor, size: int, low: int, high: int) -> Tensor:
    """(B, N) mask, True in any of M drops that begin within the length."""
    first_BM, width_BM = draws_B2M.chunk(2, dim=1)
    begin_BM = _scaled(first_BM, 0, lengths_B[:, None])
    end_BM = begin_BM + _scaled(width_BM, low, high)
    places_N = torch.arange(size, device=draws_B2M.device)
    inside_BMN = (places_N >= begin_BM[..., None]) & (places_N < end_BM[..., None])
    return inside_BMN.any(dim=1)


def _warp(draws_B2: Tensor, lengths_B: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The frames that time is cut at, before and after, (B, 1) each; 0 of what is too short."""
    cut_B = _scaled(draws_B2[:, 0], window, lengths_B - window)
    moved_B = cut_B + _scaled(draws_B2[:, 1], 1 - window, 1 + window)
    short_B = lengths_B <= 2 * window
    cut_B, moved_B = cut_B.masked_fill(short_B, 0), moved_B.masked_fill(short_B, 0)
    return cut_B[:, None], moved_B[:, None]


def _warped(x_BTF: Tensor, lengths_B: Tensor, cut_B1: Tensor, moved_B1: Tensor) -> Tensor:
    """Frames [0, cut) stretched to [0, moved), and those after them to the rest of the utterance.

    Each side is interpolated by itself, as torch's ``interpolate(mode="bicubic",
    align_corners=True)`` does it.
    """
    frames_T = torch.arange(x_BTF.shape[1], device=x_BTF.device)
    lengths_B1 = lengths_B[:, None]
    left_BT = frames_T < moved_B1
    begin_BT = torch.where(left_BT, 0, cut_B1)
    end_BT = torch.where(left_BT, cut_B1, lengths_B1) - 1
    steps_BT = torch.where(left_BT, moved_B1, lengths_B1 - moved_B1) - 1
    offset_BT = frames_T - torch.where(left_BT, 0, moved_B1)
    inner_BT = offset_BT * (end_BT - begin_BT) / steps_BT.clamp(min=1)
    before_BT = inner_BT.floor()
    weights_BT4 = _cubic_weights(inner_BT - before_BT)
    rows_B1 = torch.arange(x_BTF.shape[0], device=x_BTF.device)[:, None]
    y_BTF = torch.zeros_like(x_BTF)
    for tap in range(4):
        place_BT = before_BT.long() + begin_BT + (tap - 1)
        place_BT = place_BT.minimum(end_BT).maximum(begin_BT)
        y_BTF += weights_BT4[..., tap, None] * x_BTF[rows_B1, place_BT]
    return y_BTF


def _cubic_weights(t_BT: Tensor) -> Tensor:
    """Weights (B, T, 4) of the frames at −1, 0, 1 and 2 for places t in [0, 1)."""
    far_BT2 = torch.stack([t_BT + 1, 2 - t_BT], dim=-1)
    near_BT2 = torch.stack([t_BT, 1 - t_BT], dim=-1)
    far_BT2 = ((_CUBIC * far_BT2 - 5 * _CUBIC) * far_BT2 + 8 * _CUBIC) * far_BT2 - 4 * _CUBIC
    near_BT2 = ((_CUBIC + 2) * near_BT2 - (_CUBIC + 3)) * near_BT2.square() + 1
    return torch.stack([far_BT2[..., 0], *near_BT2.unbind(-1), far_BT2[..., 1]], dim=-1)
