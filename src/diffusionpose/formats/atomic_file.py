"""Atomic files and folders: they appear under their names complete or not at all."""

import atexit
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from diffusionpose.errors import DiffusionPoseError, UsageError
from diffusionpose.paths import check_regular

_unpublished: set[Path] = set()


@atexit.register
def _discard_unpublished() -> None:
    """Remove temporaries of a signal that came before the `try` that would remove them."""
    for path in _unpublished:
        with suppress(OSError):
            _remove(path)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")


def check_target(
    path: Path, sources: Iterable[str | Path], *, overwrite: bool, option: str = "--out"
) -> None:
    """Check that an output file may be written.

    Args:
        path: Of the output file.
        sources: Input files, which must not be replaced.
        overwrite: Whether other existing files may be replaced.
        option: Command-line option that sets the path, for the message.

    Raises:
        UsageError: If the file must not be replaced.
    """
    if not os.path.lexists(path):
        return
    if os.path.exists(path) and any(
        os.path.exists(one) and os.path.samefile(one, path) for one in sources
    ):
        raise UsageError(f"{path} is the source itself: choose another {option}")
    if not overwrite:
        raise UsageError(f"{path} already exists: choose another {option}, or pass --overwrite")


@contextmanager
def explained(path: Path, error: type[DiffusionPoseError] = DiffusionPoseError) -> Iterator[None]:
    """Turn an `OSError`, such as a full disk, into a user error that names the file."""
    try:
        yield
    except OSError as cause:
        raise error(f"cannot write {path}: {cause.strerror or cause}") from cause


def _sync(path: Path, access: int) -> None:
    """Flush to disk, so that a power failure after the rename cannot leave an empty file."""
    descriptor = os.open(path, access)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


class _Atomic:
    """What is written to `temporary`, beside `path`, until it is published."""

    path: Path
    temporary: Path

    def discard(self) -> None:
        """Remove what was not published, if it still exists. Never raises."""
        with suppress(OSError):
            _remove(self.temporary)
        _unpublished.discard(self.temporary)


class AtomicFile(_Atomic):
    """A file that is written under a temporary name and published by renaming it.

    Write to `temporary` (an empty file beside the target), then call `publish` or `discard`. A
    killed process may leave a file `.NAME.tmp-XXXXXXXX`, which can be deleted.

    Raises:
        UsageError: If the target cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not os.path.isdir(self.path):
            # Renaming would replace a device such as /dev/null by a file.
            check_regular(self.path, UsageError)
        with explained(self.path, UsageError):
            if self.path.is_dir():  # also ".", for which `with_name` would raise
                raise IsADirectoryError(f"{self.path} is a folder")
            self.temporary = _temporary_name(self.path)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _unpublished.add(self.temporary)
            # Not mkstemp, whose files are only readable by their owner, even after renaming.
            os.close(os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    def publish(self) -> None:
        """Rename the temporary file to its final name."""
        with explained(self.path):
            _sync(self.temporary, os.O_RDWR)  # Windows cannot sync a file opened read-only
            os.replace(self.temporary, self.path)
            _unpublished.discard(self.temporary)
            with suppress(OSError):  # Windows cannot open a folder
                _sync(self.path.parent, os.O_RDONLY)


class AtomicFolder(_Atomic):
    """A folder that is written under a temporary name and published by renaming it.

    Write into `temporary` (an empty folder beside the target), then call `publish` or `discard`. A
    killed process may leave a folder `.NAME.tmp-XXXXXXXX`, which can be deleted.

    Raises:
        UsageError: If the target cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = _temporary_name(path)
        with explained(path, UsageError):
            _unpublished.add(self.temporary)
            self.temporary.mkdir(parents=True)

    def publish(self) -> None:
        """Rename the temporary folder to its final name, replacing an existing folder."""
        with explained(self.path):
            if self.path.is_dir():
                gone = _temporary_name(self.path)
                os.replace(self.path, gone)
                os.replace(self.temporary, self.path)
                shutil.rmtree(gone)
            else:
                os.replace(self.temporary, self.path)
            _unpublished.discard(self.temporary)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically.

    Raises:
        DiffusionPoseError: If it cannot be written; an existing file is kept.
    """
    write_texts({path: text})


@contextmanager
def staged_text(path: Path, text: str) -> Iterator[AtomicFile]:
    """Write a small text file under a temporary name; it is removed unless published.

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
    """Write several small text files; none is published before all are written.

    Raises:
        DiffusionPoseError: If one cannot be written.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(staged_text(path, text)) for path, text in texts.items()]
        for file in files:
            file.publish()
