"""Tables of figures in the layout of the paper's Tables 1 to 3, as text, Markdown or LaTeX.

Measured rows have intervals; published figures follow under a heading of their own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.console import Console
from rich.table import Table

from diffusionpose.metrics.base import COVERAGE

PUBLISHED = "published, not measured here"
NOTHING = "-"
INTERVAL = f"{100 * COVERAGE:.0f} % interval"


@dataclass(frozen=True)
class ScoreRow:
    """One row of figures.

    Args:
        name: Of a model or a set of predictions.
        values: Percent, one per column; NaN is shown as a dash.
        intervals: (low, high) of each column, or None where there are none.
    """

    name: str
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class ScoreTable:
    """Figures of one metric.

    Args:
        title: Metric, data set, source of boxes, and so on.
        columns: Headings of the figures.
        measured: Rows measured here.
        published: Rows from a user's file.
        published_source: Where the published rows are from.
    """

    title: str
    columns: tuple[str, ...]
    measured: tuple[ScoreRow, ...]
    published: tuple[ScoreRow, ...] = ()
    published_source: str = ""

    @property
    def published_heading(self) -> str:
        """Heading of the published rows."""
        return f"{PUBLISHED} ({self.published_source})" if self.published_source else PUBLISHED


def as_text(table: ScoreTable) -> str:
    """Format a table for terminals, without colours."""
    shown = Table(box=None, pad_edge=False)
    shown.add_column("")
    for column in table.columns:
        shown.add_column(column, justify="right", no_wrap=True)
    for row in table.measured:
        shown.add_row(_one_line(row.name), *_figures(row))
        if row.intervals is not None:
            shown.add_row(f"  {INTERVAL}", *_ranges(row))
    for row in table.published:
        shown.add_row(f"  {_one_line(row.name)}", *_figures(row))
    console = Console(file=StringIO(), width=160, no_color=True, highlight=False, markup=False)
    console.print(shown)
    assert isinstance(console.file, StringIO)
    lines = [_one_line(table.title), *console.file.getvalue().splitlines()]
    if table.published:
        # Inserted as text, since rich's tables cannot span columns.
        lines[-len(table.published) : -len(table.published)] = [
            "",
            f"{_one_line(table.published_heading)}:",
        ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def as_markdown(table: ScoreTable) -> str:
    """Format as a Markdown table below its title."""

    def line(cells: Sequence[str]) -> str:
        """Format a row."""
        return f"| {' | '.join(_escaped_markdown(cell) for cell in cells)} |"

    empty = [""] * len(table.columns)
    lines = [_escaped_markdown(table.title), ""]
    lines += [line(["", *table.columns]), f"|---|{'---:|' * len(table.columns)}"]
    for row in table.measured:
        lines.append(line([row.name, *_figures(row)]))
        if row.intervals is not None:
            lines.append(line([INTERVAL, *_ranges(row)]))
    if table.published:
        lines.append(line([f"*{table.published_heading}:*", *empty]))
        lines += [line([row.name, *_figures(row)]) for row in table.published]
    return "\n".join(lines) + "\n"


def as_latex(table: ScoreTable) -> str:
    """Format as a LaTeX `tabular` for `booktabs`, with the title as a comment."""

    def line(cells: Sequence[str]) -> str:
        """Format a row."""
        return f"{' & '.join(_escaped_latex(cell) for cell in cells)} \\\\"

    lines = [f"% {_one_line(table.title)}"]
    lines += [f"\\begin{{tabular}}{{l{'c' * len(table.columns)}}}", "\\toprule"]
    lines += [line(["Method", *table.columns]), "\\midrule"]
    for row in table.measured:
        lines.append(line([row.name, *_figures(row)]))
        if row.intervals is not None:
            lines.append(line([INTERVAL, *_ranges(row)]))
    if table.published:
        heading = _escaped_latex(table.published_heading)
        lines += [
            "\\midrule",
            f"\\multicolumn{{{len(table.columns) + 1}}}{{l}}{{\\emph{{{heading}}}}} \\\\",
        ]
        lines += [line([row.name, *_figures(row)]) for row in table.published]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


TABLE_FORMATS = {"text": as_text, "markdown": as_markdown, "latex": as_latex}


def _figures(row: ScoreRow) -> list[str]:
    return [NOTHING if math.isnan(value) else f"{value:.1f}" for value in row.values]


def _ranges(row: ScoreRow) -> list[str]:
    return [
        NOTHING if math.isnan(low) else f"{low:.1f}..{high:.1f}"
        for low, high in row.intervals or ()
    ]


def _one_line(text: str) -> str:
    """Collapse whitespace, as a line break would end the row."""
    return " ".join(text.split())


def _escaped_markdown(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _escaped_latex(text: str) -> str:
    # Ranges such as 1.0..2.0 get an en dash.
    if text.count("..") == 1 and all(
        part.lstrip("-").replace(".", "").isdigit() for part in text.split("..")
    ):
        return text.replace("..", "--")
    return "".join(_LATEX.get(character, character) for character in _one_line(text))
