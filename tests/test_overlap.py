"""Concurrent stages: order, bounds, errors, and no thread left running."""

import threading
import time

import pytest

from diffusionpose.overlap import Behind, ahead


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_ahead_keeps_order_and_its_distance():
    made = []

    def items():
        for number in range(50):
            made.append(number)
            yield number

    source = ahead(items(), 3)
    assert next(source) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    # One consumed, three queued, and one that waits to be queued.
    assert len(made) == 5
    assert list(source) == list(range(1, 50))


def test_ahead_raises_the_error_where_it_happened():
    def items():
        yield 1
        raise KeyError("two")

    source = ahead(items(), 4)
    assert next(source) == 1
    with pytest.raises(KeyError, match="two"):
        next(source)


@pytest.mark.parametrize("length", [1, 100])
def test_closing_ahead_stops_and_closes_the_source(length):
    closed = []

    def items():
        try:
            yield from range(10**9)
        finally:
            closed.append(True)

    source = ahead(items(), length)
    assert next(source) == 0
    source.close()
    assert closed == [True]


def test_behind_calls_in_order_in_another_thread():
    seen = []
    with Behind(lambda item: seen.append((item, threading.current_thread().name)), 2) as behind:
        for number in range(20):
            behind(number)
    assert seen == [(number, "behind") for number in range(20)]


def test_an_error_behind_reaches_the_front_and_ends_the_work():
    seen = []

    def fail(item):
        seen.append(item)
        if item == 3:
            raise OSError("full disk")

    def feed(numbers, length):
        with Behind(fail, length) as behind:
            for number in numbers:
                behind(number)

    with pytest.raises(OSError, match="full disk"):
        feed(range(100), 1)
    assert seen == [0, 1, 2, 3]
    with pytest.raises(OSError, match="full disk"):
        feed([3], 9)


def test_an_error_in_front_drops_what_waits():
    seen, hold = [], threading.Event()

    def slow(item):
        hold.wait(5)
        seen.append(item)

    def feed():
        with Behind(slow, 9) as behind:
            for number in range(5):
                behind(number)
            raise ValueError("front")

    timer = threading.Timer(0.2, hold.set)
    timer.start()
    with pytest.raises(ValueError, match="front"):
        feed()
    timer.join()
    assert len(seen) <= 1


def test_behind_is_no_further_behind_than_its_length():
    gate, done, put = threading.Event(), [], []

    def slow(item):
        gate.wait(5)
        done.append(item)

    with Behind(slow, 2) as behind:

        def produce():
            for item in range(10):
                behind(item)
                put.append(item)

        producer = threading.Thread(target=produce)
        producer.start()
        time.sleep(0.2)
        assert len(put) <= 3
        gate.set()
        producer.join()
    assert done == list(range(10))


def test_after_an_error_nothing_more_is_done():
    gate, calls = threading.Event(), []

    def fail(item):
        gate.wait(5)
        calls.append(item)
        raise ValueError("full")

    def feed():
        with Behind(fail, 4) as behind:
            for item in range(3):
                behind(item)
            gate.set()

    with pytest.raises(ValueError, match="full"):
        feed()
    assert calls == [0]


def test_an_error_is_raised_at_one_of_the_next_items():
    given = []

    def fail(item):
        raise ValueError("full")

    def feed():
        with Behind(fail, 2) as behind:
            for item in range(50):
                given.append(item)
                behind(item)
                time.sleep(0.02)

    with pytest.raises(ValueError, match="full"):
        feed()
    assert len(given) < 10
