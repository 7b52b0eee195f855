"""Shared code of the benchmarks: data sets, process setup, interleaved timing, Markdown tables."""

import gc
import statistics
import time
from collections.abc import Callable

LSPET = {
    "kind": "coco",
    "root": "lspet",
    "annotations": "annotations/val.json",
    "images": "images",
}
JHMDB = {"kind": "posetrack", "root": "jhmdb", "split": "val"}
"""Validation sets as sources of recipes, with roots relative to the folder of all data sets."""


def prepare() -> None:
    """Set up the process like the command line does; call before importing torch."""
    from diffusionpose.cli import prepare_process

    prepare_process()


def race(
    contestants: dict[str, Callable[[], object]],
    seconds_each: float = 4.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time functions in turns and return the median seconds of each.

    Slow functions get fewer turns, spread over the whole run.
    """

    def once(function: Callable[[], object]) -> float:
        start = clock()
        function()
        return clock() - start

    # The first run is a warm-up.
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
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def start_table(header: list[str]) -> None:
    """Print the header of a Markdown table."""
    row(header)
    row(["---"] * len(header))
