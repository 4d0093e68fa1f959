"""Make the next things in the background, while this one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


R = TypeVar("R")


def prefetch(make: Callable[[T], R], items: Iterable[T], depth: int = 2) -> Iterator[R]:
    """``map(make, items)``, computed by a thread while its consumer works on earlier results.

    A loop that may be left early closes it (`contextlib.closing`): the thread then ends with the item that it
    is at.

    Parameters
    ----------
    make : callable
        Runs in the thread, one item at a time, in order. What it raises is raised at the item's place.
    items : iterable
        Read by the consumer's thread, up to `depth` items early.
    depth : int, default=2
        Results that are made, or being made, before they are asked for.

    Yields
    ------
    make(item), in the order of the items
    """
    items = iter(items)
    thread = ThreadPoolExecutor(1, thread_name_prefix="sklearn_ssl-prefetch")
    try:
        waiting = deque(thread.submit(make, item) for item in islice(items, depth))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(thread.submit(make, item) for item in islice(items, 1))
            yield made
            del made  # before the wait for the next: a batch can be large
    finally:
        thread.shutdown(cancel_futures=True)
