"""Results prefetched in a thread: their order, how far ahead it works, and that no thread is left behind."""

import contextlib
import math
import signal
import threading

import joblib
import pytest

from sklearn_ssl._prefetch import prefetch


def threads():
    return {thread for thread in threading.enumerate() if thread.name.startswith("sklearn_ssl-prefetch")}


def noted(items, drawn):
    """Generate the items, and append each to a list as it is drawn."""
    for item in items:
        drawn.append(item)
        yield item


@pytest.mark.parametrize("depth", [1, 2, 5, 100])
@pytest.mark.parametrize("n", [0, 1, 2, 20])
def test_everything_comes_in_order(n, depth):
    assert list(prefetch(lambda i: i * i, range(n), depth)) == [i * i for i in range(n)]
    assert not threads()


def test_the_next_is_made_while_this_one_is_used():
    begun = [threading.Event() for _ in range(3)]
    with contextlib.closing(prefetch(lambda i: begun[i].set(), range(3))) as results:
        next(results)
        assert begun[1].wait(60)  # although nobody has asked for it


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_more_is_made_ahead_than_was_asked_for(depth):
    drawn = []
    with contextlib.closing(prefetch(abs, noted(range(100), drawn), depth)) as results:
        for n in range(1, 4):
            next(results)
            assert drawn == list(range(n + depth))


def test_all_is_made_in_one_other_thread():
    where = set(prefetch(lambda _: threading.get_ident(), range(20)))
    assert len(where) == 1
    assert threading.get_ident() not in where


def test_an_error_comes_at_its_place_with_where_it_happened():
    results = prefetch(lambda i: 1 / (3 - i), range(6))
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1]
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert caught.traceback[-1].name == "<lambda>"
    assert not threads()


def test_items_that_end_in_an_error_end_it():
    with pytest.raises(ZeroDivisionError):
        list(prefetch(abs, (1 // i for i in (2, 1, 0))))
    assert not threads()


def test_who_leaves_early_leaves_no_thread_behind():
    made = []
    for result in prefetch(lambda item: made.append(item) or item, range(1000)):
        if result == 3:
            break
    assert not threads()
    assert len(made) <= 6  # 0 to 3, and two ahead


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_ends_the_loop_ends_the_thread(error):
    def use(result):
        if error is KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
        raise error

    with pytest.raises(error), contextlib.closing(prefetch(abs, range(1000))) as results:
        list(map(use, results))
    assert not threads()


@pytest.fixture
def interrupted():
    """Event that Ctrl-C sets before it raises KeyboardInterrupt."""
    event = threading.Event()

    def handler(number, frame):
        event.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    yield event
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows sends no signal to a thread")
def test_ctrl_c_gets_through_while_the_result_is_awaited(interrupted):
    got_through = []

    def interrupt(item):
        if item == 1:
            # A signal that comes just before the wait begins does not end it: press again, as a user would.
            for _ in range(30):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                if interrupted.wait(2):
                    break
            got_through.append(interrupted.is_set())
        return item

    with pytest.raises(KeyboardInterrupt), contextlib.closing(prefetch(interrupt, range(1000))) as results:
        list(results)
    assert got_through == [True]
    assert not threads()


def test_nothing_begins_before_the_first_is_asked_for():
    drawn = []
    results = prefetch(abs, noted(range(3), drawn))
    assert drawn == []
    assert not threads()
    results.close()


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_it_works_in_workers(backend):
    def work(start):
        return list(prefetch(math.sqrt, range(start, start + 5)))

    results = joblib.Parallel(n_jobs=2, backend=backend)(joblib.delayed(work)(i) for i in range(4))
    assert results == [[math.sqrt(i + j) for j in range(5)] for i in range(4)]
