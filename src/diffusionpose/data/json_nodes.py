"""JSON files read with their paths at hand: every problem names the file and the place in it.

One parser serves two callers: loading refuses at the first finding (`refuse`), checking collects them all. After a
finding that is collected, the value in question counts as absent and parsing goes on.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from diffusionpose.errors import DataError, first_line

MAX_NUMBER = 1e9
"""Pixels, scores and the like beyond this are mistakes, and overflow elsewhere."""
MAX_ID = 2**63 - 1


@dataclass(frozen=True)
class Finding:
    """One problem of a data set.

    Args:
        code: Its kind, for programs: `missing-key`, `wrong-type`, ...
        file: Where it is.
        where: JSON path as `annotations[3].bbox`, or empty where it concerns the file.
        message: For people.
    """

    code: str
    file: str
    where: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.where, self.message) if part)


Report = Callable[[Finding], None]


def refuse(finding: Finding) -> NoReturn:
    """What loading does with a finding.

    Raises:
        DataError: Always.
    """
    raise DataError(str(finding))


class Node:
    """A value in a JSON file that knows its place; absent where the file has no such value.

    Reading methods return None, or nothing, for an absent node. A value of another kind is reported, and then counts as
    absent too.
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
        """Whether the file has a value here; null counts as none."""
        return self.value is not None

    def find(self, code: str, message: str) -> None:
        """Reports a problem at this place."""
        self.report(Finding(code, self.file, self.where, message))

    def get(self, key: str) -> "Node":
        """The value of a key, absent where the object lacks it."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return Node(value, self.file, self.report, self, key)

    def need(self, key: str) -> "Node":
        """The value of a key; that it is lacking is reported."""
        child = self.get(key)
        if not child.is_there and self._is_a(dict, "an object"):
            self.find("missing-key", f"the key {key!r} is missing")
        return child

    def need_filled(self, key: str) -> "Node":
        """As `need`; an empty list is reported too."""
        child = self.need(key)
        if child.value == []:
            child.find("wrong-count", "a value expected, not an empty list")
        return child

    def need_one(self, key: str) -> "Node":
        """The value of a key, taken out of a list of one; that there is none is reported."""
        return self.need_filled(key).one()

    def items(self) -> Iterator["Node"]:
        """The elements of a list; null is none."""
        if self._is_a(list, "a list"):
            for index, value in enumerate(self.value):
                item = Node(value, self.file, self.report, self, index)
                if value is None:
                    item.find("wrong-type", "a value expected, not null")
                yield item

    def one(self) -> "Node":
        """The value itself, taken out of a list of one; absent for an empty list."""
        if not isinstance(self.value, list):
            return self
        if len(self.value) > 1:
            self.find("wrong-count", f"one value expected, not {len(self.value)}")
        value = self.value[0] if len(self.value) == 1 else None
        return Node(value, self.file, self.report, self, 0)

    def text(self) -> str | None:
        """A string."""
        return self.value if self._is_a(str, "a text") else None

    def number(self) -> float | None:
        """A finite number."""
        if not self._is_number():
            return None
        if not abs(self.value) <= MAX_NUMBER:  # NaN compares with nothing
            self.find("not-finite", f"a number up to {MAX_NUMBER:.0e} expected, not {self.value}")
            return None
        return float(self.value)

    def integer(self) -> int | None:
        """A whole number, also written as 1.0."""
        if not self._is_number():
            return None
        if not abs(self.value) <= MAX_ID or self.value != int(self.value):
            self.find("wrong-type", f"a whole number expected, not {shown(self.value)}")
            return None
        return int(self.value)

    def flag(self) -> bool | None:
        """True or false, also written as 1 or 0."""
        if not self.is_there:
            return None
        if isinstance(self.value, bool) or self.value in (0, 1):
            return bool(self.value)
        self.find("wrong-type", f"true or false expected, not {shown(self.value)}")
        return None

    def numbers(self, *counts: int) -> np.ndarray | None:
        """A flat list of finite numbers as float64.

        Args:
            counts: Lengths that are right; any if there are none.
        """
        if not self._is_a(list, "a list of numbers"):
            return None
        if counts and len(self.value) not in counts:
            expected = " or ".join(map(str, counts))
            self.find("wrong-count", f"{expected} numbers expected, not {len(self.value)}")
            return None
        if set(map(type, self.value)) <= {int, float}:
            try:
                values = np.array(self.value, dtype=np.float64)
            except OverflowError:  # an integer beyond float64; found below
                values = np.array([np.inf])
            if (np.abs(values) <= MAX_NUMBER).all():
                return values
        for item in self.items():
            item.number()
        return None

    def _is_a(self, kind: type, name: str) -> bool:
        if self.is_there and not isinstance(self.value, kind):
            self.find("wrong-type", f"{name} expected, not {shown(self.value)}")
        return isinstance(self.value, kind)

    def _is_number(self) -> bool:
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if self.is_there and not is_number:
            self.find("wrong-type", f"a number expected, not {shown(self.value)}")
        return is_number


def read_json(path: Path, report: Report = refuse) -> Node:
    """The whole of a JSON file; absent where it cannot be read and `report` returns."""
    node = Node(None, str(path), report)
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            node.find("unreadable-file", "cannot be read (not a regular file)")
            return node
        node.value = json.loads(path.read_bytes())
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        message = "no such file" if missing else f"cannot be read ({error.strerror})"
        node.find("missing-file" if missing else "unreadable-file", message)
    except (ValueError, RecursionError) as error:
        node.find("bad-json", f"no valid JSON, or cut short ({first_line(error)})")
    else:
        if node.value is None:
            node.find("wrong-type", "an object expected, not null")
    return node


def shown(value: Any) -> str:
    """A value as a message quotes it, of a bearable length."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    try:
        text = json.dumps(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 40 else text[:37] + "..."
