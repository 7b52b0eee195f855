"""Tables as text, Markdown and LaTeX, with published figures set apart."""

import math

import pytest

from diffusionpose.errors import ConfigError
from diffusionpose.formats.published import PublishedFigures
from diffusionpose.formats.score_table import ScoreRow, ScoreTable, as_latex, as_markdown, as_text

NAN = math.nan
TABLE = ScoreTable(
    title="PoseTrack AP; set_1 | val; boxes: true boxes",
    columns=("Head", "Ankle", "Mean"),
    measured=(ScoreRow("my_model", (NAN, 50.04, 7.777), ((NAN, NAN), (-1.0, 100.0), (7.0, 8.25))),),
    published=(ScoreRow("Theirs & co", (80.0, NAN, 77.7)),),
    published_source="their Table 1",
)


def test_text():
    assert as_text(TABLE).splitlines() == [
        "PoseTrack AP; set_1 | val; boxes: true boxes",
        f"{'Head':>21}{'Ankle':>13}{'Mean':>10}",
        f"{'my_model':<17}{'-':>4}{'50.0':>13}{'7.8':>10}",
        f"{'  95 % interval':<17}{'-':>4}{'-1.0..100.0':>13}{'7.0..8.2':>10}",
        "",
        "published, not measured here (their Table 1):",
        f"{'  Theirs & co':<17}{'80.0':>4}{'-':>13}{'77.7':>10}",
    ]


def test_markdown():
    assert as_markdown(TABLE).splitlines() == [
        "PoseTrack AP; set_1 \\| val; boxes: true boxes",
        "",
        "|  | Head | Ankle | Mean |",
        "|---|---:|---:|---:|",
        "| my_model | - | 50.0 | 7.8 |",
        "| 95 % interval | - | -1.0..100.0 | 7.0..8.2 |",
        "| *published, not measured here (their Table 1):* |  |  |  |",
        "| Theirs & co | 80.0 | - | 77.7 |",
    ]


def test_latex():
    assert as_latex(TABLE).splitlines() == [
        "% PoseTrack AP; set_1 | val; boxes: true boxes",
        "\\begin{tabular}{lccc}",
        "\\toprule",
        "Method & Head & Ankle & Mean \\\\",
        "\\midrule",
        "my\\_model & - & 50.0 & 7.8 \\\\",
        "95 \\% interval & - & -1.0--100.0 & 7.0--8.2 \\\\",
        "\\midrule",
        "\\multicolumn{4}{l}{\\emph{published, not measured here (their Table 1)}} \\\\",
        "Theirs \\& co & 80.0 & - & 77.7 \\\\",
        "\\bottomrule",
        "\\end{tabular}",
    ]


def test_without_published_figures_nothing_is_said_of_them():
    table = ScoreTable("t", ("Mean",), (ScoreRow("m", (1.0,)),))
    for text in (as_text(table), as_markdown(table), as_latex(table)):
        assert "published" not in text
        assert "interval" not in text


def test_published_figures_from_yaml(tmp_path):
    path = tmp_path / "figures.yaml"
    path.write_text("source: their Table 1\nrows:\n  Theirs: {Head: 80, Mean: 77.7}\n")
    found = PublishedFigures.read(path)
    (row,) = found.table_rows(("Head", "Ankle", "Mean"))
    assert (found.source, row.name, row.values[0], row.values[2]) == (
        "their Table 1",
        "Theirs",
        80,
        77.7,
    )
    assert math.isnan(row.values[1])
    assert PublishedFigures.read(None).table_rows(("Head",)) == ()
    with pytest.raises(
        ConfigError, match=r"figures\.yaml: rows\.Theirs\.Head: .*choose from AP, Mean"
    ):
        found.table_rows(("AP", "Mean"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {A: {Head: x}}", r"rows\.A\.Head"),
        ("rows: {A: {Head: .nan}}", r"rows\.A\.Head"),
        ("row: {}", "unknown key|rows"),
        ("[", "invalid YAML"),
    ],
)
def test_malformed_published_files_are_named(tmp_path, text, message):
    path = tmp_path / "figures.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"figures\.yaml.*({message})"):
        PublishedFigures.read(path)


def test_names_in_tables_are_escaped_and_stay_on_one_line():
    rows = tuple(ScoreRow(name, (1.0,)) for name in ("1..2..3", "a~", "b\nc"))
    latex = as_latex(ScoreTable("t", ("Mean",), rows[:2]))
    assert latex.splitlines()[5:7] == [r"1..2..3 & 1.0 \\", r"a\textasciitilde{} & 1.0 \\"]
    broken = ScoreTable("t\nu", ("Mean",), rows[2:], rows[2:], "their\npage")
    whole = ScoreTable("t u", ("Mean",), *[(ScoreRow("b c", (1.0,)),)] * 2, "their page")
    for shown in (as_latex, as_markdown, as_text):
        assert shown(broken) == shown(whole)
