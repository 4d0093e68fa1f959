"""Computation of the next items of an iterator in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(make: Callable[[T], R], items: Iterable[T], depth: int = 2) -> Generator[R, None, None]:
    """Yield the results of ``map(make, items)``, computed in a thread while earlier ones are consumed.

    A consumer that may stop early has to close the generator (`contextlib.closing`): the thread then ends
    after its current item.

    Parameters
    ----------
    make : callable
        Function of one item, called in the thread, in the order of the items. Its exceptions are raised in
        the consumer, in place of the item's result.
    items : iterable
        Items, read in the consumer's thread, up to `depth` items ahead.
    depth : int, default=2
        Maximum number of results that are computed ahead, the one in progress included.

    Yields
    ------
    object
        ``make(item)``, in the order of the items.
    """
    items = iter(items)
    thread = ThreadPoolExecutor(1, thread_name_prefix="sklearn_ssl-prefetch")
    try:
        waiting = deque(thread.submit(make, item) for item in islice(items, depth))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(thread.submit(make, item) for item in islice(items, 1))
            yield made
            del made  # free it before waiting for the next one: a batch can be large
    finally:
        thread.shutdown(cancel_futures=True)
