"""A comparison as one HTML file without scripts or network access, styled like the report.

Charts stretch to the page's width but their text must not: curves are SVG, labels are HTML around
it.
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from string import Template

import numpy as np

from diffusionpose.angles import ANGLES
from diffusionpose.compare import AngleFigures, Comparison, number, words
from diffusionpose.skeleton import SIDES

MOST_POINTS = 1500
"""Maximum number of points of a curve; longer ones are thinned."""
_WIDTH, _HEIGHT = 1000.0, 200.0
"""Size of a chart in SVG units."""
_MARKS = (15, 30, 45, 90)
"""Candidate spacings of grid lines in degrees; the first that needs at most `_MOST_LINES` is
used."""
_MOST_LINES = 5
_NUM_TIMES = 5


def compare_html(comparison: Comparison) -> str:
    """Render the whole page."""
    assets = resources.files("diffusionpose") / "assets"
    page = Template((assets / "compare" / "compare.html").read_text("utf-8"))
    names = [_shown(one.video) for one in (comparison.a, comparison.b)]
    mirrored = "; left and right of B exchanged" if comparison.is_mirrored else ""
    return page.substitute(
        title=f"{names[0]} and {names[1]}",
        style="".join(
            (assets / folder / f"{folder}.css").read_text("utf-8")
            for folder in ("report", "compare")
        ),
        summary=f"{number(comparison.mean)} degrees apart, on average of all angles{mirrored}",
        name_a=names[0],
        name_b=names[1],
        facts_a=comparison.a.facts.capitalize(),
        facts_b=comparison.b.facts.capitalize(),
        table=_table(comparison),
        charts=_charts(comparison) + _pace_chart(comparison),
    )


def _shown(name: str) -> str:
    return escape(name.encode("utf-8", "replace").decode())


def _table(comparison: Comparison) -> str:
    head = ("Angle", "Mean", "Largest", "at A / B, s", "Range A / B")
    rows = [
        _row(
            words(one.name),
            number(one.mean),
            number(one.largest),
            f"{number(one.time_a, 2)} / {number(one.time_b, 2)}",
            f"{number(one.range_a, 0)} / {number(one.range_b, 0)}",
        )
        for one in comparison.figures
    ]
    heads = "".join(f'<th scope="col">{text}</th>' for text in head)
    foot = _row("all", number(comparison.mean), "", "", "")
    return (
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>"
        f"<tfoot>{foot}</tfoot></table>"
    )


def _row(name: str, *cells: str) -> str:
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


# ------------------------------------------------------------------------------------------------------ charts


def _charts(comparison: Comparison) -> str:
    """Render a chart for each angle known in A or B; left and right share a scale."""
    shown = _thinned(len(comparison.times_a))
    progress = np.cumsum(comparison.warping.weights) - comparison.warping.weights / 2
    parts = []
    for figures in comparison.figures:
        column = ANGLES.index(figures.name)
        both = np.stack([comparison.angles_a[:, column], comparison.angles_b[:, column]])
        if not np.isfinite(both).any():
            continue
        worst = _place_of_worst(comparison, figures, progress)
        parts.append(
            _angle_chart(
                figures,
                progress[shown],
                both[:, shown],
                _scale(_of_both_sides(comparison, figures.name)),
                worst,
                _time_rows(comparison, progress),
            )
        )
    return "".join(parts)


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.rint(np.linspace(0, count - 1, min(count, MOST_POINTS))).astype(int))


def _place_of_worst(
    comparison: Comparison, figures: AngleFigures, progress: np.ndarray
) -> float | None:
    if np.isnan(figures.largest):
        return None
    here = (comparison.times_a == figures.time_a) & (comparison.times_b == figures.time_b)
    return float(progress[here][0])


def _of_both_sides(comparison: Comparison, name: str) -> np.ndarray:
    kind = name.removeprefix(f"{SIDES[0]}_").removeprefix(f"{SIDES[1]}_")
    columns = [n for n, other in enumerate(ANGLES) if other.endswith(kind)]
    values = np.concatenate(
        [comparison.angles_a[:, columns].ravel(), comparison.angles_b[:, columns].ravel()]
    )
    return values[np.isfinite(values)]


def _scale(values: np.ndarray) -> np.ndarray:
    """Choose the grid lines in degrees; the first and last enclose all values."""
    low, high = float(values.min()), float(values.max())
    marks = np.zeros(0)
    for step in _MARKS:
        first, last = np.floor(low / step), max(np.ceil(high / step), np.floor(low / step) + 1)
        marks = step * np.arange(first, last + 1)
        if len(marks) <= _MOST_LINES:
            break
    return marks


def _time_rows(comparison: Comparison, progress: np.ndarray) -> str:
    """Render time labels of A and B at evenly spaced positions of a chart."""
    at = [int(np.abs(progress - share).argmin()) for share in np.linspace(0, 1, _NUM_TIMES)]
    rows = (("one", comparison.times_a[at]), ("other", comparison.times_b[at]))
    return "".join(
        f'<div class="times {kind}">{_spans(_seconds(times))}</div>' for kind, times in rows
    )


def _seconds(times: np.ndarray) -> list[str]:
    """Format times with enough decimals to tell them apart."""
    step = (times[-1] - times[0]) / max(len(times) - 1, 1)
    decimals = 1 if step <= 0 else int(np.clip(1 - np.floor(np.log10(step)), 1, 3))
    return [number(float(time), decimals) for time in times]


def _spans(texts: Iterable[str]) -> str:
    return "".join(f"<span>{text}</span>" for text in texts)


def _angle_chart(
    figures: AngleFigures,
    progress: np.ndarray,
    both: np.ndarray,
    marks: np.ndarray,
    worst: float | None,
    times: str,
) -> str:
    low, high = marks[0], marks[-1]
    x = _WIDTH * progress
    one, other = _HEIGHT * (high - both) / (high - low)
    lines = [
        (
            "grid",
            "".join(f"M0 {y:.1f}h{_WIDTH:.0f}" for y in _HEIGHT * (high - marks) / (high - low)),
        ),
        ("between", _between(x, one, other)),
        ("worst", "" if worst is None else f"M{_WIDTH * worst:.1f} 0v{_HEIGHT:.0f}"),
        # A jump by more than 180 degrees is a wrap-around, which must not draw a line across the
        # chart.
        ("one", _line(x, one, np.abs(np.diff(both[0])) > 180)),
        ("other", _line(x, other, np.abs(np.diff(both[1])) > 180)),
    ]
    name = words(figures.name)
    note = f"mean {number(figures.mean)}&deg;, largest {number(figures.largest)}&deg;"
    sides = "".join(
        f'<span style="bottom:{100 * (mark - low) / (high - low):.1f}%">{mark:.0f}&deg;</span>'
        for mark in marks
    )
    return (
        f"<figure><h3>{name.capitalize()} <span>{note}</span></h3>"
        f'<div class="chart"><div class="marks">{sides}</div>'
        f"{_svg(lines, f'{name} of A and of B')}{times}</div></figure>"
    )


def _svg(lines: Sequence[tuple[str, str]], label: str) -> str:
    paths = "".join(f'<path class="{kind}" d="{path}"/>' for kind, path in lines if path)
    return (
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{paths}</svg>'
    )


def _line(x: np.ndarray, y: np.ndarray, broken: np.ndarray) -> str:
    """Build an SVG path, interrupted where y is NaN and after points marked in `broken`."""
    parts, is_on = [], False
    for n, (px, py) in enumerate(zip(x, y, strict=True)):
        if np.isnan(py):
            is_on = False
            continue
        # "h0": an isolated point is only visible by its round cap, which needs a line.
        parts.append(f"L{px:.1f} {py:.1f}" if is_on else f"M{px:.1f} {py:.1f}h0")
        is_on = n >= len(broken) or not broken[n]
    return "".join(parts)


def _between(x: np.ndarray, one: np.ndarray, other: np.ndarray) -> str:
    """Build an SVG path of the area between two curves where both are known."""
    known = np.isfinite(one) & np.isfinite(other)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    parts = []
    for start, end in edges.reshape(-1, 2):
        run = slice(start, end)
        there = [f"{px:.1f} {py:.1f}" for px, py in zip(x[run], one[run], strict=True)]
        back = [f"{px:.1f} {py:.1f}" for px, py in zip(x[run], other[run], strict=True)]
        parts.append(f"M{'L'.join([*there, *back[::-1]])}Z")
    return "".join(parts)


def _pace_chart(comparison: Comparison) -> str:
    """Chart the warping path: time of A to the right, time of B upwards."""
    shown = _thinned(len(comparison.times_a))
    x, y = (
        (times[shown] - times[0]) / max(times[-1] - times[0], 1e-9)
        for times in (comparison.times_a, comparison.times_b)
    )
    lines = [
        ("grid", f"M0 0h{_WIDTH:.0f}M0 {_HEIGHT:.0f}h{_WIDTH:.0f}"),
        ("steady", f"M0 {_HEIGHT:.0f}L{_WIDTH:.0f} 0"),
        ("warp", _line(_WIDTH * x, _HEIGHT * (1 - y), np.zeros(0, bool))),
    ]
    across, up = (
        [f"{text} s" for text in _seconds(np.linspace(times[0], times[-1], 3))]
        for times in (comparison.times_a, comparison.times_b)
    )
    sides = "".join(f'<span style="bottom:{50 * n}%">{text}</span>' for n, text in enumerate(up))
    return (
        "<figure><h3>Pace <span>moments that match; on the dashed line it is the same</span></h3>"
        f'<div class="chart"><div class="marks other">{sides}</div>'
        f'{_svg(lines, "time of B over time of A")}<div class="times one">{_spans(across)}</div></div></figure>'
    )
