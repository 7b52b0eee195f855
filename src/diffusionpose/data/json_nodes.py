"""Validated reading of JSON files; every problem is reported with file and JSON path.

One parser serves two callers: loading raises at the first finding (`refuse`), checking collects all
of them. After a collected finding, the value counts as absent and parsing continues.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from diffusionpose.errors import DataError, first_line

MAX_NUMBER = 1e9
"""Limit for pixels, scores and the like; larger values are mistakes and would overflow later."""
MAX_ID = 2**63 - 1


@dataclass(frozen=True)
class Finding:
    """A problem in a data set.

    Args:
        code: Machine-readable kind: `missing-key`, `wrong-type`, ...
        file: Path of the file.
        where: JSON path such as `annotations[3].bbox`; empty for problems of the whole file.
        message: Description for the user.
    """

    code: str
    file: str
    where: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.message) if part)


Report = Callable[[Finding], None]


def refuse(finding: Finding) -> NoReturn:
    """Raise a finding as an error, as done when loading.

    Raises:
        DataError: Always.
    """
    raise DataError(str(finding))


class Node:
    """A value in a JSON file together with its path; it may be absent.

    The reading methods return None, or yield nothing, for an absent node. A value of the wrong type
    is reported and then counts as absent.
    """

    __slots__ = ("_key", "_parent", "file", "report", "value")

    def __init__(
        self,
        value: Any,
        file: str,
        report: Report = refuse,
        parent: "Node | None" = None,
        key: str | int = "",
    ) -> None:
        self.value, self.file, self.report = value, file, report
        self._parent, self._key = parent, key

    @property
    def where(self) -> str:
        """JSON path of the value; empty for the whole file."""
        parts: list[str] = []
        node: Node | None = self
        while node is not None and node._parent is not None:
            parts.append(f"[{node._key}]" if isinstance(node._key, int) else f".{node._key}")
            node = node._parent
        return "".join(reversed(parts)).lstrip(".")

    @property
    def is_there(self) -> bool:
        """Whether the value is present and not null."""
        return self.value is not None

    def find(self, code: str, message: str) -> None:
        """Report a problem with this value."""
        self.report(Finding(code, self.file, self.where, message))

    def get(self, key: str) -> "Node":
        """Return the value of a key; absent if the object lacks it."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return Node(value, self.file, self.report, self, key)

    def need(self, key: str) -> "Node":
        """Return the value of a key, and report if it is missing."""
        child = self.get(key)
        if not child.is_there and self._is_a(dict, "an object"):
            self.find("missing-key", f"the key {key!r} is missing")
        return child

    def need_filled(self, key: str) -> "Node":
        """Return the value of a key, and report if it is missing or an empty list."""
        child = self.need(key)
        if child.value == []:
            child.find("wrong-count", "expected a value, got an empty list")
        return child

    def need_one(self, key: str) -> "Node":
        """Return the value of a key, unwrapped from a one-element list; report if it is missing."""
        return self.need_filled(key).one()

    def items(self) -> Iterator["Node"]:
        """Yield the elements of a list, and report those that are null."""
        if self._is_a(list, "a list"):
            for index, value in enumerate(self.value):
                item = Node(value, self.file, self.report, self, index)
                if value is None:
                    item.find("wrong-type", "expected a value, got null")
                yield item

    def one(self) -> "Node":
        """Return the value, unwrapped if it is a one-element list; absent for an empty list."""
        if not isinstance(self.value, list):
            return self
        if len(self.value) > 1:
            self.find("wrong-count", f"expected one value, got {len(self.value)}")
        value = self.value[0] if len(self.value) == 1 else None
        return Node(value, self.file, self.report, self, 0)

    def text(self) -> str | None:
        """Return the value as a string."""
        return self.value if self._is_a(str, "a string") else None

    def number(self) -> float | None:
        """Return the value as a number up to `MAX_NUMBER` in magnitude."""
        if not self._is_number():
            return None
        if not abs(self.value) <= MAX_NUMBER:  # NaN compares with nothing
            self.find("not-finite", f"expected a number up to {MAX_NUMBER:.0e}, got {self.value}")
            return None
        return float(self.value)

    def integer(self) -> int | None:
        """Return the value as an integer; 1.0 is accepted."""
        if not self._is_number():
            return None
        if not abs(self.value) <= MAX_ID or self.value != int(self.value):
            self.find("wrong-type", f"expected an integer, got {shown(self.value)}")
            return None
        return int(self.value)

    def flag(self) -> bool | None:
        """Return the value as a boolean; 1 and 0 are accepted."""
        if not self.is_there:
            return None
        if isinstance(self.value, bool) or self.value in (0, 1):
            return bool(self.value)
        self.find("wrong-type", f"expected true or false, got {shown(self.value)}")
        return None

    def numbers(self, *counts: int) -> np.ndarray | None:
        """Return a flat list of finite numbers as a float64 array.

        Args:
            counts: Allowed lengths; any if none is given.
        """
        if not self._is_a(list, "a list of numbers"):
            return None
        if counts and len(self.value) not in counts:
            expected = " or ".join(map(str, counts))
            self.find("wrong-count", f"expected {expected} numbers, got {len(self.value)}")
            return None
        if set(map(type, self.value)) <= {int, float}:
            try:
                values = np.array(self.value, dtype=np.float64)
            except OverflowError:  # an integer beyond float64; reported below
                values = np.array([np.inf])
            if (np.abs(values) <= MAX_NUMBER).all():
                return values
        for item in self.items():
            item.number()
        return None

    def _is_a(self, kind: type, name: str) -> bool:
        if self.is_there and not isinstance(self.value, kind):
            self.find("wrong-type", f"expected {name}, got {shown(self.value)}")
        return isinstance(self.value, kind)

    def _is_number(self) -> bool:
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if self.is_there and not is_number:
            self.find("wrong-type", f"expected a number, got {shown(self.value)}")
        return is_number


def read_json(path: Path, report: Report = refuse) -> Node:
    """Read a JSON file; the result is absent if that fails and `report` returns."""
    node = Node(None, str(path), report)
    try:
        if path.exists() and not path.is_file():  # reading a pipe might never end
            node.find("unreadable-file", "cannot be read (not a regular file)")
            return node
        node.value = json.loads(path.read_bytes())
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        message = "no such file" if missing else f"cannot be read ({error.strerror})"
        node.find("missing-file" if missing else "unreadable-file", message)
    except (ValueError, RecursionError) as error:
        node.find("bad-json", f"not valid JSON, or truncated ({first_line(error)})")
    else:
        if node.value is None:
            node.find("wrong-type", "expected an object, got null")
    return node


def shown(value: Any) -> str:
    """Format a value for a message, shortened to at most 40 characters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    try:
        text = json.dumps(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 40 else text[:37] + "..."
