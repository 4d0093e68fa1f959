"""Ctrl-C between two steps."""

import signal
import threading

import pytest

from sklearn_ssl.interrupts import interrupt_held_back


@pytest.fixture(autouse=True)
def _default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    signal.raise_signal(signal.SIGINT)


def test_the_first_is_noted_the_second_raised():
    with interrupt_held_back() as asked_for:
        assert not asked_for()
        press()
        assert asked_for()
        with pytest.raises(KeyboardInterrupt):
            press()


def test_afterwards_it_is_raised_as_ever():
    with interrupt_held_back():
        pass
    with pytest.raises(KeyboardInterrupt):
        press()


def test_an_error_inside_restores_it_too():
    with pytest.raises(ZeroDivisionError), interrupt_held_back():
        1 / 0  # noqa: B018
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_programs_own_way_is_left_alone():
    pressed = []
    signal.signal(signal.SIGINT, lambda *args: pressed.append(args))
    with interrupt_held_back() as asked_for:
        press()
        assert not asked_for()
    assert len(pressed) == 1


def test_other_threads_cannot_hold_it_back():
    seen = []

    def hold():
        with interrupt_held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
