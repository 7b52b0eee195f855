"""Ledger of a batch: one line of JSON per outcome, synced to disk before the next one is processed.

The last line of a video holds its outcome. A line that was cut off by a kill is removed when the
ledger is opened again.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from filelock import FileLock, Timeout

from diffusionpose.errors import DataError, UsageError
from diffusionpose.formats.atomic_file import explained
from diffusionpose.model.pretrained import sha256_of

Status = Literal["started", "ok", "partial", "rejected", "crashed", "timeout"]
LEDGER, LOCK = "ledger.jsonl", ".ledger.lock"


@dataclass(frozen=True)
class LedgerEntry:
    """Outcome of a video.

    Args:
        name: Of the input file.
        status: `ok`; `partial` if there are results, but the video is damaged; `rejected` if the
            video cannot be read, or not with these options; `crashed`; `timeout`. `started` until
            then.
        key: SHA-256 of all that the results depend on: input, its name, settings, weights, version.
        input_sha256: Of the input file.
        message: Why the status is not `ok`, and notes.
        files: SHA-256 of each result by its path relative to the ledger's folder.
        seconds: Processing time.
        frames: Number of frames in the results.
        people: Number of people in the results.

    Raises:
        ValueError: If the status is unknown.
    """

    name: str
    status: Status
    key: str = ""
    input_sha256: str = ""
    message: str = ""
    files: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    frames: int = 0
    people: int = 0

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"unknown status {self.status!r}")

    @property
    def stem(self) -> str:
        """Stem of the result files."""
        return Path(self.name).stem

    @property
    def is_delivered(self) -> bool:
        """Whether there are results."""
        return self.status in ("ok", "partial")

    def stands(self, key: str, folder: Path) -> bool:
        """Whether the results are up to date: the key is the same, and all files are unchanged."""
        return (
            self.is_delivered
            and self.key == key
            and all(_has(folder / name, digest) for name, digest in self.files.items())
        )


def _has(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


class Ledger:
    """The ledger of a folder, from `open_ledger`.

    Attributes:
        last: By stem, the last entry of each video whose processing ended.
        delivered: By stem, the last entry with results, which stay until they are replaced.
        owned: Stems whose result files belong to the batch, complete or not.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.last: dict[str, LedgerEntry] = {}
        self.delivered: dict[str, LedgerEntry] = {}
        self.owned: set[str] = set()
        self._path, self._file = path, file

    def append(self, entry: LedgerEntry) -> None:
        """Append a line and sync it to disk.

        Raises:
            DiffusionPoseError: If it cannot be written.
        """
        data = _line(entry)
        with explained(self._path):
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        self._take(entry)

    def read(self) -> None:
        """Read all entries; an incomplete last line is removed from the file.

        Raises:
            DataError: If a line is invalid.
        """
        with explained(self._path):
            self._file.seek(0)
            whole, end, torn = self._file.read().rpartition(b"\n")
            if torn:
                self._file.truncate(len(whole) + len(end))
                os.fsync(self._file.fileno())
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._take(LedgerEntry(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{self._path}: line {number} is not an entry of this release: "
                    "move the file away to start over"
                ) from error

    def _take(self, entry: LedgerEntry) -> None:
        if entry.status != "started":
            self.last[entry.stem] = entry
        if entry.is_delivered:
            self.delivered[entry.stem] = entry
        if entry.is_delivered or entry.status == "started":
            self.owned.add(entry.stem)
        elif entry.status == "rejected" and entry.stem not in self.delivered:
            # Nothing was written, so files of these names that appear later are not the batch's.
            self.owned.discard(entry.stem)


def _line(entry: LedgerEntry) -> bytes:
    """Serialise an entry as UTF-8; surrogates of file names that are not UTF-8 are escaped."""
    record: dict[str, Any] = asdict(entry)
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    text = re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    return f"{text}\n".encode()


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """Open the ledger of a folder, creating it if missing, and lock the folder for other batches.

    Raises:
        UsageError: If another batch uses the folder, or it cannot be written.
        DataError: If the ledger has an invalid line.
    """
    path = folder / LEDGER
    with explained(path, UsageError):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"{folder} is in use by another batch: wait for it, or choose another --out"
            ) from None
    try:
        with explained(path, UsageError):
            file = path.open("a+b", buffering=0)
        with file:
            ledger = Ledger(path, file)
            ledger.read()
            yield ledger
    finally:
        lock.release()
