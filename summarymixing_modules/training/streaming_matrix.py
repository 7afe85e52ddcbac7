"""Word error rates over chunk sizes and left contexts, as in the tables of arXiv 2409.07165.

Shape suffixes: B batch, D encoder features, L samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from tqdm import tqdm

from summarymixing_modules.data.files import write_atomically, write_csv
from summarymixing_modules.pictures import line_style, picture
from summarymixing_modules.text_tables import aligned, plus_minus
from summarymixing_modules.training.brain import SafeBrain
from summarymixing_modules.training.data.transcribed import ASRData
from summarymixing_modules.training.guard import is_empty
from summarymixing_modules.training.scores.error_rates import ErrorRate, split_words
from summarymixing_modules.training.scores.score import Interval


@dataclass(frozen=True)
class Cell:
    """A word error rate.

    Attributes:
        chunk_size: encoder frames of a chunk; None = full context.
        chunk_ms: the same in milliseconds.
        left_chunks: chunks seen to the left; None = all.
        wer: percent.
        interval: 95 % of it, low and high.
    """

    chunk_size: int | None
    chunk_ms: float | None
    left_chunks: int | None
    wer: float
    interval: Interval | None = None


def streaming_matrices(
    brain: SafeBrain,
    data: ASRData,
    chunk_sizes: Sequence[int],
    left_contexts: Sequence[int | None],
) -> dict[str, list[dict[str, Any]]]:
    """Prints and writes the error rates of every test set over chunk sizes and left contexts.

    Args:
        brain: as for `streaming_matrix`; its output folder gets the files.
        data: of the recipe.
        chunk_sizes: encoder frames of a chunk.
        left_contexts: chunks to the left; None = all.

    Returns:
        test set → its cells, for result.json.
    """
    found = {}
    for name, test_set in data.datasets.test.items():
        cells = streaming_matrix(brain, test_set, data.eval_loader, chunk_sizes, left_contexts)
        found[name] = [asdict(cell) for cell in cells]
        if if_main_process():
            assert brain.output_folder is not None
            write_matrix(cells, brain.output_folder, name)
            print(format_matrix(cells, name))
    return found


def streaming_matrix(
    brain: SafeBrain,
    data: DynamicItemDataset,
    loader_kwargs: Mapping[str, Any],
    chunk_sizes: Sequence[int],
    left_contexts: Sequence[int | None],
) -> list[Cell]:
    """Decodes a data set greedily at full context and at every chunk size and left context.

    Features are computed once. Chunks are masked, which gives what streaming gives (see
    ``summarymixing_modules.streaming``). Uses the weights that the Brain holds.

    Args:
        brain: of a transducer, with ``features`` among its modules and a tokenizer.
        data: the test set.
        loader_kwargs: of the DataLoader.
        chunk_sizes: encoder frames of a chunk.
        left_contexts: chunks to the left; None = all.

    Returns:
        the cells, that of full context first.
    """
    configs = [None, *(DynChunkTrainConfig(c, left) for left in left_contexts for c in chunk_sizes)]
    scores = [ErrorRate() for _ in configs]
    brain.modules.eval()
    loader = brain.make_dataloader(data, sb.Stage.TEST, **loader_kwargs)
    hidden = brain.noprogressbar or not if_main_process()
    for batch in tqdm(loader, desc=f"{len(configs)} chunk settings", disable=hidden):
        if is_empty(batch):
            continue
        for score, texts in zip(scores, _transcripts(brain, batch, configs), strict=True):
            for text, reference in zip(texts, batch.wrd, strict=True):
                score.append(split_words(text), split_words(reference))
    frame_ms = _frame_ms(brain)
    return [_cell(config, frame_ms, score) for config, score in zip(configs, scores, strict=True)]


@torch.no_grad()
def _transcripts(
    brain: SafeBrain, batch: Any, configs: Sequence[DynChunkTrainConfig | None]
) -> list[list[str]]:
    """A batch's transcripts with each of the chunk settings."""
    samples_BL, share_B = batch.to(brain.device).sig
    model, found = brain.model, []
    with brain.evaluation_ctx:
        features_BTF, lengths_B = brain.modules.features(samples_BL, share_B, brain.epoch)
        for config in configs:
            rows = model.greedy(*model.encode(features_BTF, lengths_B, config))
            found.append(brain.hparams.tokenizer.texts(rows))
    return found


def _frame_ms(brain: SafeBrain) -> float:
    stft = brain.modules.features.compute_features.compute_STFT
    subsampling = brain.model.frontend.subsampling
    return 1000 * float(subsampling) * stft.hop_length / stft.sample_rate


def _cell(config: DynChunkTrainConfig | None, frame_ms: float, score: ErrorRate) -> Cell:
    rate = score.percent, score.interval()
    if config is None:
        return Cell(None, None, None, *rate)
    return Cell(config.chunk_size, config.chunk_size * frame_ms, config.left_context_size, *rate)


def format_matrix(cells: Sequence[Cell], title: str) -> str:
    """The cells as a text table: left contexts down, chunk lengths across, full context below."""
    sizes = list(dict.fromkeys(cell.chunk_ms for cell in cells if cell.chunk_ms is not None))
    lefts = list(dict.fromkeys(cell.left_chunks for cell in cells if cell.chunk_ms is not None))
    wer = {
        (cell.chunk_ms, cell.left_chunks): plus_minus(f"{cell.wer:.2f}", cell.interval)
        for cell in cells
    }
    rows = [["left chunks", *(f"{size:>5.0f} ms" for size in sizes)]]
    rows += [[_left_name(left), *(wer[size, left] for size in sizes)] for left in lefts]
    table = aligned(rows, range(len(rows[0])), separator=" | ")
    head = f"WER (%) on {title}, greedy, ± half of the 95 % interval"
    return f"{head}\n{table}\nfull context: {wer[None, None]}"


def write_matrix(cells: Sequence[Cell], folder: Path, name: str) -> None:
    """Writes ``streaming_matrix_<name>`` as .json, .csv and .png.

    Args:
        cells: from ``streaming_matrix``.
        folder: where to.
        name: of the test set.
    """
    stem = folder / f"streaming_matrix_{name}"
    rows = [asdict(cell) for cell in cells]
    write_atomically(stem.with_suffix(".json"), json.dumps(rows, indent=2) + "\n")
    write_csv(
        stem.with_suffix(".csv"),
        [
            ["chunk_size", "chunk_ms", "left_chunks", "wer", "low", "high"],
            *([c.chunk_size, c.chunk_ms, c.left_chunks, c.wer, *(c.interval or ())] for c in cells),
        ],
    )
    _plot(cells, stem.with_suffix(".png"), f"Greedy decoding of {name} in chunks")


def _plot(cells: Sequence[Cell], file: Path, title: str) -> None:
    with picture(file, 7, 4.5) as figure:
        axes = figure.subplots()
        chunked = [cell for cell in cells if cell.chunk_ms is not None]
        for index, left in enumerate(dict.fromkeys(cell.left_chunks for cell in chunked)):
            line = sorted((c.chunk_ms or 0.0, c.wer) for c in chunked if c.left_chunks == left)
            axes.plot(*zip(*line, strict=True), label=_left_name(left), **line_style(index))
        for cell in cells:
            if cell.chunk_ms is None:
                axes.axhline(cell.wer, color="black", linestyle="--", label="full context")
        axes.set(xlabel="chunk (ms)", ylabel="WER (%)", title=title)
        axes.set_xticks(sorted({cell.chunk_ms or 0.0 for cell in chunked}))
        axes.grid(alpha=0.3)
        axes.legend(title="left chunks")


def _left_name(left: int | None) -> str:
    return "all" if left is None else str(left)
