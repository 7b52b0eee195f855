"""What the benchmarks share: a process set up like the command line's, and races in turns."""

import gc
import statistics
import time
from collections.abc import Callable


def prepare() -> None:
    """As `diffusionpose` does for itself; before torch is imported."""
    from diffusionpose.cli import prepare_process

    prepare_process()


def race(
    contestants: dict[str, Callable[[], object]],
    seconds_each: float = 4.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each, taken in turns; the slow ones get fewer, spread over the whole race."""

    def once(function: Callable[[], object]) -> float:
        start = clock()
        function()
        return clock() - start

    # The first run warms up.
    first = {name: once(function) for name, function in contestants.items()}
    turns = {name: min(60, max(3, int(seconds_each / took))) for name, took in first.items()}
    rounds = max(turns.values())
    times: dict[str, list[float]] = {name: [] for name in contestants}
    gc.collect()
    gc.disable()
    for number in range(rounds):
        for name, function in contestants.items():
            if number * turns[name] // rounds != (number + 1) * turns[name] // rounds:
                times[name].append(once(function))
    gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


def row(cells: list[str]) -> None:
    """One of a Markdown table, on stdout."""
    print(f"| {' | '.join(cells)} |", flush=True)


def start_table(header: list[str]) -> None:
    """Its header."""
    row(header)
    row(["---"] * len(header))
