"""Work on many files at once: libsndfile and the file system let other threads run meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")

#: A thread takes so many items at once at most: fewer cost more than small files do, and for more
#: an interruption would wait.
_ITEMS_AT_ONCE = 64
#: So many such parts for every thread wait for their turn, or to be consumed.
_PARTS_AHEAD = 4


def in_threads(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    title: str,
    unit: str = "file",
    progress: bool = True,
    weights: Sequence[int] | None = None,
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
    size = min(_ITEMS_AT_ONCE, 1 + len(items) // (16 * workers))
    total = len(items) if weights is None else sum(weights)
    bar = tqdm(total=total, desc=title, unit=unit, disable=None if progress else True)

    def results(start: int, part: Future[list[Result]]) -> list[Result]:
        done = part.result()
        bar.update(len(done) if weights is None else sum(weights[start : start + len(done)]))
        return done

    with bar, ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[int, Future[list[Result]]]] = deque()
        try:
            for start in range(0, len(items), size):
                part = pool.submit(lambda part: [*map(work, part)], items[start : start + size])
                waiting.append((start, part))
                if len(waiting) > _PARTS_AHEAD * workers:
                    yield from results(*waiting.popleft())
            while waiting:
                yield from results(*waiting.popleft())
        except BaseException:
            # Otherwise Ctrl-C would wait for hundreds of thousands of files.
            pool.shutdown(cancel_futures=True)
            raise
