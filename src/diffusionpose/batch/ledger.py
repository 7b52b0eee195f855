"""What a batch has done: one line of JSON a video, on the disk before the next video is asked after.

A video's last line says what became of it. A line that a kill cut off is taken away when the ledger is opened again.
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
    """What became of a video.

    Args:
        name: Of the input file.
        status: `ok`; `partial`: delivered, but the video is damaged; `rejected`: no video that can be read, or not with
            these options; `crashed`; `timeout`. `started` stands until one of them is known.
        key: SHA-256 of all that the results depend on: input, its name, settings, weights, release.
        input_sha256: Of the input file.
        message: Why it is not ok, and what else is worth knowing.
        files: Results, relative to the ledger's folder, with their SHA-256.
        seconds: That the work took.
        frames: In the results.
        people: In the results.

    Raises:
        ValueError: If there is no such status.
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
            raise ValueError(f"status {self.status!r}")

    @property
    def stem(self) -> str:
        """Name of the results."""
        return Path(self.name).stem

    @property
    def is_delivered(self) -> bool:
        """Whether there are results."""
        return self.status in ("ok", "partial")

    def stands(self, key: str, folder: Path) -> bool:
        """Whether it is what would be made again: of the same key, with every file there as it was written."""
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
        last: By name of the results, the last entry of each video whose work ended.
        delivered: Likewise, the last that had results: they stay until others take their place.
        owned: Names of results whose files are the batch's own, complete or not.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.last: dict[str, LedgerEntry] = {}
        self.delivered: dict[str, LedgerEntry] = {}
        self.owned: set[str] = set()
        self._path, self._file = path, file

    def append(self, entry: LedgerEntry) -> None:
        """Writes a line, to the disk.

        Raises:
            DiffusionPoseError: If the disk does not take it.
        """
        data = _line(entry)
        with explained(self._path):
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        self._take(entry)

    def read(self) -> None:
        """Takes what is there; a last line that was cut off is removed.

        Raises:
            DataError: If a line is none of ours.
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
                    f"{self._path}: line {number} is no entry of this release: move the file away to do all anew"
                ) from error

    def _take(self, entry: LedgerEntry) -> None:
        if entry.status != "started":
            self.last[entry.stem] = entry
        if entry.is_delivered:
            self.delivered[entry.stem] = entry
        if entry.is_delivered or entry.status == "started":
            self.owned.add(entry.stem)
        elif entry.status == "rejected" and entry.stem not in self.delivered:
            # Nothing was written: what stands under its names later is somebody else's.
            self.owned.discard(entry.stem)


def _line(entry: LedgerEntry) -> bytes:
    """Letters of any script stay readable; of a name that is not UTF-8, the bytes come back when it is read."""
    record: dict[str, Any] = asdict(entry)
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    text = re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)
    return f"{text}\n".encode()


@contextmanager
def open_ledger(folder: Path) -> Iterator[Ledger]:
    """The ledger of a folder, made if it is not there, and held: no other batch works there meanwhile.

    Raises:
        UsageError: If another batch is at work there, or the folder cannot be written.
        DataError: If the ledger holds what is none of ours.
    """
    path = folder / LEDGER
    with explained(path, UsageError):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"{folder}: another batch is at work there: wait for it, or give another --out"
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
