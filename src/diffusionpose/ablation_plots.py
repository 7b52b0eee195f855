"""Plots of an ablation suite: accuracy over training, and over DDIM steps."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffusionpose.ablate import Job, Suite
from diffusionpose.ablation_report import METRICS_SHOWN, curves, results

mpl.use("Agg")
from matplotlib import pyplot as plt

SHOWN = 8.0
"""Extent of the y axis below the best row, in percentage points; lower rows are labelled as off the
scale."""


def plot_suite(suite: Suite, jobs: list[Job], folder: Path) -> list[Path]:
    """Write `training.png` if there are tables, and `steps.png` if a row has several DDIM steps.

    Lines are means over seeds; bands span from the worst to the best seed.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = [source.name for source in jobs[0].config.validation]
    files = []
    if suite.tables:
        files.append(_training(suite, jobs, sources, folder / "training.png"))
    if any(len(row.steps) > 1 for row in suite.rows):
        files.append(_steps(suite, jobs, sources, folder / "steps.png"))
    return files


def _training(suite: Suite, jobs: list[Job], sources: list[str], path: Path) -> Path:
    """Plot accuracy over training: a row of axes for each table, a column for each validation set.

    A suite row has the same colour in all axes.
    """
    figure, axes = plt.subplots(
        len(suite.tables), len(sources), squeeze=False, sharex=True,
        layout="constrained", figsize=(3.6 * len(sources) + 2.6, 2.3 * len(suite.tables) + 0.3),
    )  # fmt: skip
    colours = {row.name: plt.get_cmap("tab20")(n % 20) for n, row in enumerate(suite.rows)}
    labels = {row.name: row.label for row in suite.rows}
    found = {source: curves(jobs, source) for source in sources}
    for table, line in zip(suite.tables, axes, strict=True):
        for source, axis in zip(sources, line, strict=True):
            for name in table.rows:
                runs = [dict(run) for run in found[source].get(name, [])]
                # Only steps that every seed has, as a mean of fewer seeds would make the line jump.
                steps = sorted(set(runs[0]).intersection(*runs)) if runs else []
                if steps:
                    values = np.array([[run[step] for step in steps] for run in runs])
                    _band(axis, steps, 100 * values, labels[name], colours[name])
            _near_the_best(axis)
            axis.grid(alpha=0.3)
        line[0].set_title(table.title, fontsize=9, loc="left")
        handles, names = line[0].get_legend_handles_labels()
        hidden = [_is_off_the_scale(name, line) for name in names]
        names = [
            f"{name} (off the scale)" if off else name
            for name, off in zip(names, hidden, strict=True)
        ]
        line[-1].legend(
            handles, names, fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False
        )
    for source, axis in zip(sources, axes[-1], strict=True):
        shown = METRICS_SHOWN[jobs[0].metrics[source]]
        axis.set_xlabel(f"training steps; {source}, {shown}", fontsize=8)
    return _saved(figure, path)


def _steps(suite: Suite, jobs: list[Job], sources: list[str], path: Path) -> Path:
    figure, axes = plt.subplots(
        1, len(sources), squeeze=False, layout="tight", figsize=(4.2 * len(sources), 3.2)
    )
    found = results(jobs)
    rows = [row for row in suite.rows if len(row.steps) > 1]
    ticks = sorted({n for row in rows for n in row.steps})
    for source, axis in zip(sources, axes[0], strict=True):
        for row in rows:
            runs = [run[source] for run in found.get(row.name, {}).values()]
            if runs:
                steps = sorted(row.steps)
                values = np.array([[run[str(n)] for n in steps] for run in runs])
                _band(axis, steps, 100 * values, row.label)
        shown = METRICS_SHOWN[jobs[0].metrics[source]]
        axis.set(xlabel="DDIM steps", ylabel=f"{source}, {shown}", xscale="log")
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    return _saved(figure, path)


def _band(axis: Axes, x: list[int], values: np.ndarray, label: str, colour: object = None) -> None:
    """Plot the mean over seeds and the range between them; `values` is (seeds, len(x))."""
    (line,) = axis.plot(
        x, values.mean(0), marker="o", markersize=3, linewidth=1.2, label=label, color=colour
    )
    axis.fill_between(x, values.min(0), values.max(0), alpha=0.15, color=line.get_color())


def _near_the_best(axis: Axes) -> None:
    """Limit the y axis to rows near the best, so that a failed run does not flatten the others."""
    ends = [float(np.asarray(line.get_ydata(), float)[-1]) for line in axis.get_lines()]
    if ends and np.isfinite(ends).any():
        best = float(np.nanmax(ends))
        lowest = min((end for end in ends if end >= best - SHOWN), default=best)
        axis.set_ylim(lowest - 4, best + 1)


def _is_off_the_scale(label: str, axes: Sequence[Axes]) -> bool:
    """Whether the curve with this label ends below the y axis, or in NaN, in all of `axes`."""
    return not any(
        float(np.asarray(line.get_ydata(), float)[-1]) >= axis.get_ylim()[0]
        for axis in axes
        for line in axis.get_lines()
        if line.get_label() == label
    )


def _saved(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
