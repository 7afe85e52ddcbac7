"""Work on many files at once: libsndfile and the file system let other threads run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    title: str,
    unit: str = "file",
    progress: bool = True,
    weights: Iterable[int] | None = None,
) -> Iterator[Result]:
    """The results of work on items, in order, with a bar.

    Args:
        work: on one item.
        items: to work on.
        workers: threads.
        title: of the bar.
        unit: of the bar.
        progress: show the bar.
        weights: units that each item counts for; None = one.
    """
    counts = [1] * len(items) if weights is None else list(weights)
    bar = tqdm(total=sum(counts), desc=title, unit=unit, disable=not progress)
    with bar, ThreadPoolExecutor(workers) as pool:
        try:
            for result, count in zip(pool.map(work, items), counts, strict=True):
                bar.update(count)
                yield result
        except BaseException:
            # Otherwise Ctrl-C would wait for hundreds of thousands of files.
            pool.shutdown(cancel_futures=True)
            raise
