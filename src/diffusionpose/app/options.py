"""Options of a job, from the query of `POST /api/jobs`, and safe file names."""

import importlib.util
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from diffusionpose.config import Frozen
from diffusionpose.errors import UsageError
from diffusionpose.exports import EXPORTS, ExportOptions
from diffusionpose.paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from diffusionpose.postprocess import parse_smoother
from diffusionpose.results import ResultOptions

FormatName = Literal[
    "json", "csv", "posetrack", "coco", "parquet", "npz", "openpose", "trc", "c3d"
]  # fmt: skip
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)
MAX_NAME = 80
MAX_STEM_BYTES = 120
"""Maximum length of a file's stem; with all suffixes, a name must fit into 255 bytes."""
_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES | {".gif"}
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])", re.IGNORECASE)
"""File stems that Windows reserves for devices, whatever the suffix."""


def _split(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


class JobOptions(Frozen):
    """Options of a job, as offered by the page. JSON and the annotated video are always written."""

    formats: Annotated[tuple[FormatName, ...], BeforeValidator(_split)] = ("json",)
    smooth: Literal["none", "one-euro", "butterworth"] = "none"
    min_score: float = Field(default=0.0, ge=0, le=1)
    fill_gaps: int = Field(default=0, ge=0, le=250)
    angles: bool = False
    blur_faces: bool = False
    detect_every: int = Field(default=1, ge=1, le=30)
    height_m: float | None = Field(default=None, ge=0.3, le=3)

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        for name in self.formats:
            export = EXPORTS.get(name)
            if export is not None and export.in_metres and self.height_m is None:
                raise ValueError(f"{name.upper()} is in metres: give the person's height")
            if name not in available_formats():
                raise ValueError(
                    f"{name} is not available: a package is not installed on the server"
                )
        return self

    def wanted(self) -> ResultOptions:
        """Convert to the options of `predict_files`."""
        names: list[str] = ["json", *self.formats, *(["angles"] if self.angles else [])]
        return ResultOptions(
            formats=tuple(dict.fromkeys(names)),
            min_score=self.min_score,
            fill_gaps=self.fill_gaps,
            smoother=None if self.smooth == "none" else parse_smoother(self.smooth),
            export=ExportOptions(self.height_m),
        )


def available_formats() -> tuple[FormatName, ...]:
    """List the formats whose packages are installed."""
    return tuple(name for name in FORMAT_NAMES if _is_installed(name))


def _is_installed(name: str) -> bool:
    needs = EXPORTS[name].needs if name in EXPORTS else None
    return needs is None or importlib.util.find_spec(needs[0]) is not None


def each_once(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Convert a query to a dictionary.

    Raises:
        UsageError: If a name is repeated.
    """
    query: dict[str, str] = {}
    for name, value in pairs:
        if name in query:
            text = "is given more than once: give it once, with several values separated by commas"
            raise UsageError(f"{shown(name)} {text}")
        query[name] = value
    return query


def parse_options(query: Mapping[str, str]) -> JobOptions:
    """Parse and validate the options of a query.

    Raises:
        UsageError: If an option is unknown or out of range; the message names it.
    """
    try:
        return JobOptions.model_validate(dict(query))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(shown(f"{where}: {message}" if where else message, 200)) from error


def shown(text: str, most: int = MAX_NAME) -> str:
    """Make untrusted text safe to display: one line without control and bidi characters."""
    visible = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
    return " ".join(visible.split())[:most]


def display_name(name: str) -> str:
    """Shorten a client's file name for display, keeping its suffix; it is never used as a path."""
    stem, suffix = _split_suffix(shown(re.split(r"[/\\]", name)[-1], len(name)))
    return f"{stem[: MAX_NAME - len(suffix)].rstrip()}{suffix}" or "video"


def file_name(name: str) -> str:
    """Make a file name that is valid on every system; its only dot is that of the suffix."""
    stem, suffix = _split_suffix(display_name(name))
    stem = re.sub(r"[^\w-]+", "-", stem).encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    stem = stem.strip("-") or "video"
    return f"{stem}-video{suffix}" if _DEVICES.fullmatch(stem) else f"{stem}{suffix}"


def _split_suffix(name: str) -> tuple[str, str]:
    """Split off the suffix if it is one of a video or image: `Trial 1.5 kmh` has none."""
    stem, suffix = os.path.splitext(name)
    return (stem, suffix) if suffix.lower() in _SUFFIXES else (name, "")
