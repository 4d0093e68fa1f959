"""Ctrl-C between two training steps."""

import contextlib
import signal
import threading

import pytest

from sklearn_ssl._training.interrupts import interrupt_held_back


@pytest.fixture(autouse=True)
def _default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press():
    signal.raise_signal(signal.SIGINT)


def test_the_first_is_noted_the_second_raised():
    with interrupt_held_back() as interrupt:
        assert not interrupt.asked_for
        press()
        assert interrupt.asked_for
        assert not interrupt.raised
        with pytest.raises(KeyboardInterrupt):
            press()
        assert interrupt.raised


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
    handler = signal.getsignal(signal.SIGINT)
    with interrupt_held_back() as interrupt:
        press()
        assert not interrupt.is_from_user()
    assert len(pressed) == 1
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_programs_own_way_that_raises_is_seen():
    def own(number, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, own)
    with pytest.raises(KeyboardInterrupt), interrupt_held_back() as interrupt:
        press()
    assert interrupt.is_from_user()


@pytest.mark.parametrize("ignored", [signal.SIG_IGN, signal.SIG_DFL])
def test_where_python_does_not_handle_it_nothing_is_done(ignored):
    signal.signal(signal.SIGINT, ignored)
    with interrupt_held_back():
        assert signal.getsignal(signal.SIGINT) is ignored


def test_an_interrupt_that_code_raises_is_not_the_users():
    with interrupt_held_back() as interrupt, contextlib.suppress(KeyboardInterrupt):
        raise KeyboardInterrupt
    assert not interrupt.is_from_user()


def test_other_threads_cannot_hold_it_back():
    seen = []

    def hold():
        with interrupt_held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
