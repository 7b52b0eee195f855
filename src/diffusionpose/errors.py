"""The errors that users see: one line each, saying what was wrong and what to do.

Every class carries the exit code that the command line ends with. Anything else that escapes is a bug.
"""


class DiffusionPoseError(Exception):
    """Base of all errors that a user can cause or mend. Exit code 1.

    Args:
        text: What the command line prints.
        plain: The same for who has not its options, as a visitor of the page; `text` when left out.
    """

    exit_code = 1

    def __init__(self, text: str = "", *, plain: str = "") -> None:
        super().__init__(text)
        self.plain = plain or text


class UsageError(DiffusionPoseError, ValueError):
    """Options or arguments that contradict each other or are out of range. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe or model configuration with an unknown key or an impossible value. Exit code 2."""


class InputRefusedError(DiffusionPoseError):
    """A source that cannot or must not be read: not a video, empty, too large, not a regular file. Exit code 3."""

    exit_code = 3


class CheckpointError(DiffusionPoseError):
    """Weights that are missing, truncated, corrupted or do not belong to their configuration. Exit code 1."""


class DataError(DiffusionPoseError):
    """A data set whose files contradict their format. Exit code 1."""


class StoppedError(DiffusionPoseError):
    """A signal ended the work. Exit code 128 + the signal's number, as shells count."""

    def __init__(self, number: int, detail: str) -> None:
        what = {2: "interrupted", 15: "terminated"}.get(number, f"signal {number}")
        super().__init__(f"{what}: {detail}")
        self.exit_code = 128 + number


def install_command(extra: str) -> str:
    """What brings an extra's packages."""
    # Its extra asks for a second OpenCV, which where there is no libGL breaks the first.
    if extra == "hota":
        return "pip install --no-deps trackeval"
    return f"pip install 'diffusionpose[{extra}]'"


class MissingExtraError(DiffusionPoseError, ImportError):
    """A feature whose optional dependency is not installed. Exit code 1."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package!r}: {install_command(extra)}")


def first_line(error: BaseException) -> str:
    """The first line of another library's message, of a bearable length, to quote in one of ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
