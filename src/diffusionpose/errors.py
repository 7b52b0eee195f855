"""User-facing errors: one line each that says what was wrong and what to do.

Every class carries the exit code of the command line. Any other exception that escapes is a bug.
"""


class DiffusionPoseError(Exception):
    """Base of all errors that a user can cause or fix. Exit code 1.

    Args:
        text: Message on the command line.
        plain: Message without command-line options, for users of the web page; by default `text`.
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
    """A source that cannot or must not be read, e.g. no video, empty, too large. Exit code 3."""

    exit_code = 3


class CheckpointError(DiffusionPoseError):
    """Weights that are missing, corrupted, or do not match their configuration. Exit code 1."""


class DataError(DiffusionPoseError):
    """A data set whose files contradict their format. Exit code 1."""


class StoppedError(DiffusionPoseError):
    """The work was stopped by a signal. Exit code 128 + signal number, as in shells."""

    def __init__(self, number: int, detail: str) -> None:
        what = {2: "interrupted", 15: "terminated"}.get(number, f"signal {number}")
        super().__init__(f"{what}: {detail}")
        self.exit_code = 128 + number


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra."""
    # trackeval requires a second OpenCV package, which breaks the first where libGL is missing.
    if extra == "hota":
        return "pip install --no-deps trackeval"
    return f"pip install 'diffusionpose[{extra}]'"


class MissingExtraError(DiffusionPoseError, ImportError):
    """A feature whose optional dependency is not installed. Exit code 1."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}; install it with: {install_command(extra)}"
        )


def first_line(error: BaseException) -> str:
    """First line of another library's error message, at most 200 characters, to quote in ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
