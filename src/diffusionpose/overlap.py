"""Pipelining of stream stages with threads: `ahead` prefetches items, `Behind` processes them late.

Queues have a fixed length. The stages (decoding, detection, matrix products, encoding) release the
GIL, so threads are enough.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

_END = object()
_PATIENCE = 0.1
"""Seconds between checks whether the consumer is gone."""


def ahead(items: Iterable[T], length: int) -> Generator[T, None, None]:
    """Yield the items in order, prefetching up to `length` of them in a thread.

    Closing the generator, or an error in its consumer, stops the thread after its current item and
    closes `items` if that is a generator. An error in `items` is raised in place of the item.
    """
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(length)
    gone = threading.Event()

    def put(entry: tuple[Any, BaseException | None]) -> None:
        while not gone.is_set():
            with suppress(queue.Full):
                made.put(entry, timeout=_PATIENCE)
                return

    def work() -> None:
        """Produce items until the end, an error, or the consumer is gone."""
        source = iter(items)
        try:
            for item in source:
                put((item, None))
                if gone.is_set():
                    return
            put((_END, None))
        # Any error is re-raised in the consumer.
        except BaseException as error:  # noqa: BLE001
            put((_END, error))
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    worker = threading.Thread(target=work, name="ahead", daemon=True)
    worker.start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        gone.set()
        _join(worker)


def _join(worker: threading.Thread) -> None:
    """Wait for a thread, even if a signal interrupts the wait: its resources are closed next."""
    try:
        worker.join()
    except BaseException:
        worker.join()
        raise


class Behind(Generic[T]):
    """Calls a function on items in order in a separate thread, lagging by at most `length` items.

    Use as a context manager: leaving it waits for all items, or drops them after an error. An error
    of the function is raised at the next item, or on leaving the context.
    """

    def __init__(self, function: Callable[[T], object], length: int) -> None:
        self._function = function
        self._waiting: queue.Queue[Any] = queue.Queue(length)
        self._error: BaseException | None = None
        self._dropped = threading.Event()
        self._worker = threading.Thread(target=self._work, name="behind", daemon=True)

    def __enter__(self) -> Self:
        self._worker.start()
        return self

    def __call__(self, item: T) -> None:
        self._raise()
        self._waiting.put(item)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._dropped.set()
        try:
            self._finish()
        except BaseException:
            # A signal: drop queued items, but let the thread finish its current one.
            self._dropped.set()
            self._finish()
            raise
        if error is None:
            self._raise()

    def _finish(self) -> None:
        self._waiting.put(_END)
        self._worker.join()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not _END:
            if self._error is not None or self._dropped.is_set():
                # Keep draining the queue, so that the producer does not block.
                continue
            try:
                self._function(item)
            # Any error is re-raised in the producer.
            except BaseException as error:  # noqa: BLE001
                self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
