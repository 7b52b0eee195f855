"""Published figures from a user's YAML file, shown below measured ones."""

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
    """Rows of published figures and their source.

    File format: `{source: TEXT, rows: {NAME: {COLUMN: PERCENT}}}`; `source` and columns are
    optional.
    """

    file: str = ""
    source: str = ""
    rows: tuple[tuple[str, dict[str, float]], ...] = ()

    @classmethod
    def read(cls, path: Path | None) -> "PublishedFigures":
        """Read a YAML file; None gives no figures.

        Raises:
            ConfigError: If the file cannot be read or has another format.
        """
        if path is None:
            return cls()
        found = parse(_File, read_yaml(path), str(path))
        return cls(path.name, found.source or path.name, tuple(found.rows.items()))

    def table_rows(self, columns: Sequence[str]) -> tuple[ScoreRow, ...]:
        """Convert to table rows with the columns of a metric; NaN where there is no figure.

        Raises:
            ConfigError: If the file has an unknown column.
        """
        for name, figures in self.rows:
            for column in figures:
                if column not in columns:
                    raise ConfigError(
                        f"{self.file}: rows.{name}.{column}: unknown column; choose from {', '.join(columns)}"
                    )
        return tuple(
            ScoreRow(name, tuple(figures.get(column, math.nan) for column in columns))
            for name, figures in self.rows
        )
