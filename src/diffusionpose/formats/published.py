"""Figures that somebody published, from a YAML file of the user's, to stand below measured ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusionpose.config import Frozen, parse, read_yaml
from diffusionpose.errors import ConfigError
from diffusionpose.formats.score_table import ScoreRow


class _File(Frozen):
    source: str = ""
    rows: dict[str, dict[str, float]]


@dataclass(frozen=True)
class PublishedFigures:
    """Rows of figures, and where they are from.

    The file: `{source: TEXT, rows: {NAME: {COLUMN: PERCENT}}}`; `source` and any column may be left out.
    """

    file: str = ""
    source: str = ""
    rows: tuple[tuple[str, dict[str, float]], ...] = ()

    @classmethod
    def read(cls, path: Path | None) -> "PublishedFigures":
        """From a YAML file; nothing from None.

        Raises:
            ConfigError: If the file cannot be read or is not in this form.
        """
        if path is None:
            return cls()
        found = parse(_File, read_yaml(path), str(path))
        return cls(path.name, found.source or path.name, tuple(found.rows.items()))

    def table_rows(self, columns: Sequence[str]) -> tuple[ScoreRow, ...]:
        """In the columns of a metric; NaN where the file has no figure.

        Raises:
            ConfigError: If a row has another column.
        """
        for name, figures in self.rows:
            for column in figures:
                if column not in columns:
                    raise ConfigError(
                        f"{self.file}: rows.{name}.{column}: this metric's columns are {', '.join(columns)}"
                    )
        return tuple(
            ScoreRow(name, tuple(figures.get(column, math.nan) for column in columns))
            for name, figures in self.rows
        )
