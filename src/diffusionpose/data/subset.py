"""Subset files: some videos or frames of a data set, one a line."""

from collections.abc import Iterable
from pathlib import Path

from diffusionpose.errors import DataError
from diffusionpose.paths import check_regular


class Subset:
    """The lines of a subset file, and which of them have been met in the data.

    A line is a video's name, or a frame's file name or id as the annotations have them. Empty lines and those that start
    with `#` mean nothing.

    Args:
        lines: Names with the number of their line.
        origin: The file, for messages.
    """

    def __init__(self, lines: dict[str, int], origin: str) -> None:
        self._lines, self._origin = lines, origin
        self._met: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> "Subset":
        """A subset file.

        Raises:
            DataError: If it cannot be read or names nothing.
        """
        check_regular(Path(path), DataError)
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise DataError(f"{path}: no such subset file") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no text in UTF-8"
            raise DataError(f"{path}: the subset file cannot be read ({reason})") from None
        lines = {line.strip(): number for number, line in enumerate(text.splitlines(), 1)}
        lines = {line: n for line, n in lines.items() if line and not line.startswith("#")}
        if not lines:
            raise DataError(f"{path}: the subset file names nothing")
        return cls(lines, str(path))

    def holds(self, names: Iterable[str]) -> bool:
        """Whether any of a frame's names is listed."""
        met = [name for name in names if name in self._lines]
        self._met.update(met)
        return bool(met)

    def check(self) -> None:
        """To be called when all frames have been asked for.

        Raises:
            DataError: If a line is no name of the data set; names the first such line.
        """
        unknown = {name: number for name, number in self._lines.items() if name not in self._met}
        if unknown:
            name, number = next(iter(unknown.items()))
            more = f" (and {len(unknown) - 1} lines more)" if len(unknown) > 1 else ""
            raise DataError(
                f"{self._origin}: line {number}: {name!r} is no video or frame of this data set{more}"
            )
