"""Subset files: lists of videos or frames of a data set, one per line."""

from collections.abc import Iterable
from pathlib import Path

from diffusionpose.errors import DataError
from diffusionpose.paths import check_regular


class Subset:
    """The entries of a subset file, with a record of those found in the data.

    An entry is the name of a video, or the file name or id of a frame in the annotations. Empty
    lines and those that start with `#` are ignored.

    Args:
        lines: Line numbers by entry.
        origin: The file, for error messages.
    """

    def __init__(self, lines: dict[str, int], origin: str) -> None:
        self._lines, self._origin = lines, origin
        self._met: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> "Subset":
        """Read a subset file.

        Raises:
            DataError: If it cannot be read or has no entries.
        """
        check_regular(Path(path), DataError)
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise DataError(f"{path}: no such subset file") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise DataError(f"{path}: the subset file cannot be read ({reason})") from None
        lines = {line.strip(): number for number, line in enumerate(text.splitlines(), 1)}
        lines = {line: n for line, n in lines.items() if line and not line.startswith("#")}
        if not lines:
            raise DataError(f"{path}: the subset file has no entries")
        return cls(lines, str(path))

    def holds(self, names: Iterable[str]) -> bool:
        """Return whether any of a frame's names is listed."""
        met = [name for name in names if name in self._lines]
        self._met.update(met)
        return bool(met)

    def check(self) -> None:
        """Check that all entries were found, after all frames have been passed to `holds`.

        Raises:
            DataError: If an entry is not in the data set; names the first one.
        """
        unknown = {name: number for name, number in self._lines.items() if name not in self._met}
        if unknown:
            name, number = next(iter(unknown.items()))
            more = f" (and {len(unknown) - 1} more lines)" if len(unknown) > 1 else ""
            raise DataError(
                f"{self._origin}: line {number}: {name!r} is not a video or frame of this data "
                f"set{more}"
            )
