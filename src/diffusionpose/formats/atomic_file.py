"""Files that appear under their names complete or not at all."""

import atexit
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from diffusionpose.errors import DiffusionPoseError, UsageError
from diffusionpose.paths import check_regular

_unpublished: set[Path] = set()


@atexit.register
def _discard_unpublished() -> None:
    """A signal may strike between the making of a temporary and the `try` that would remove it."""
    for path in _unpublished:
        with suppress(OSError):
            path.unlink()


def check_target(
    path: Path, sources: Iterable[str | Path], *, overwrite: bool, option: str = "--out"
) -> None:
    """Whether a file may be written there.

    Args:
        path: Of the file to be.
        sources: What it is made from, which it must not replace.
        overwrite: Whether it may replace anything else.
        option: That names it, for the message.

    Raises:
        UsageError: If it must not be written there.
    """
    if not os.path.lexists(path):
        return
    if os.path.exists(path) and any(
        os.path.exists(one) and os.path.samefile(one, path) for one in sources
    ):
        raise UsageError(f"{path} is the source itself: give another {option}")
    if not overwrite:
        raise UsageError(f"{path} is there: give another {option}, or --overwrite")


@contextmanager
def explained(path: Path, error: type[DiffusionPoseError] = DiffusionPoseError) -> Iterator[None]:
    """A full disk or a folder without rights is not a bug: one line that names the file."""
    try:
        yield
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}") from cause


def _sync(path: Path, access: int) -> None:
    """To the disk, so that a loss of power after the rename cannot leave an empty file."""
    descriptor = os.open(path, access)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicFile:
    """A file that stands under its name complete or not at all.

    Write to `temporary` (it exists, empty, beside the target), then `publish`; or `discard`. The temporary of
    a killed process is named `.NAME.tmp-XXXXXXXX` and may be removed.

    Raises:
        UsageError: On making it, if the target cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not os.path.isdir(self.path):
            # By its rename it would put a file in the place of a device, as /dev/null.
            check_regular(self.path, UsageError)
        with explained(self.path, UsageError):
            if self.path.is_dir():  # also ".", which has no name to make another from
                raise IsADirectoryError(f"{self.path} is a folder")
            self.temporary = self.path.with_name(f".{self.path.name}.tmp-{secrets.token_hex(4)}")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _unpublished.add(self.temporary)
            # Not mkstemp: its files are readable by their owner only, and stay so when renamed.
            os.close(os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    def publish(self) -> None:
        """Moves what was written to its final name."""
        with explained(self.path):
            _sync(self.temporary, os.O_RDWR)  # Windows syncs nothing that it may only read
            os.replace(self.temporary, self.path)
            _unpublished.discard(self.temporary)
            with suppress(OSError):  # Windows cannot open a folder
                _sync(self.path.parent, os.O_RDONLY)

    def discard(self) -> None:
        """Removes the temporary, if it is still there. Never raises."""
        with suppress(OSError):
            self.temporary.unlink()
        _unpublished.discard(self.temporary)


def write_text(path: Path, text: str) -> None:
    """A small text file, complete or not at all.

    Raises:
        DiffusionPoseError: If it cannot be written; what was there stays.
    """
    write_texts({path: text})


@contextmanager
def staged_text(path: Path, text: str) -> Iterator[AtomicFile]:
    """A small text file, complete under its temporary name; removed unless it is published.

    Raises:
        DiffusionPoseError: If it cannot be written.
    """
    file = AtomicFile(path)
    try:
        with explained(path):
            file.temporary.write_text(text, encoding="utf-8", newline="")
        yield file
    finally:
        file.discard()


def write_texts(texts: Mapping[Path, str]) -> None:
    """Small text files by their paths; none gets its name before all are written.

    Raises:
        DiffusionPoseError: If one cannot be written.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(staged_text(path, text)) for path, text in texts.items()]
        for file in files:
            file.publish()
