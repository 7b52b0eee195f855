"""Formatting shared by all formats: rounding, exact fractions, strict JSON lines, counted nouns."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np

from diffusionpose.structures import FramePoses, PersonPose

PIXEL_DECIMALS = 3
SCORE_DECIMALS = 4
SECOND_DECIMALS = 6


def rounded(values: object, decimals: int) -> np.ndarray:
    """Round to float64; adding zero turns -0.0 into 0.0."""
    return np.asarray(values, np.float64).round(decimals) + 0.0


def rounded_score(value: float) -> float:
    """Round a score to the decimals of results."""
    return round(float(value), SCORE_DECIMALS) + 0.0


def rounded_seconds(time: Fraction) -> float:
    """Round a time in seconds to the decimals of results."""
    return round(float(time), SECOND_DECIMALS) + 0.0


def ratio_text(value: Fraction) -> str:
    """Format a fraction as `num/den`, also if the denominator is 1."""
    return f"{value.numerator}/{value.denominator}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Format a number with its noun: `1 frame`, `2 frames`; `many` is an irregular plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def keypoint_rows(person: PersonPose) -> np.ndarray:
    """(num_joints, 3) rounded x, y, score; NaN, NaN, 0 where any of them is not finite."""
    raw = np.asarray(person.keypoints, np.float64)
    xy, scores = rounded(raw[:, :2], PIXEL_DECIMALS), rounded(raw[:, 2:], SCORE_DECIMALS)
    out = np.concatenate([xy, scores], axis=1)
    out[~np.isfinite(raw).all(axis=1)] = np.nan, np.nan, 0
    return out


def rounded_frame(frame: FramePoses) -> FramePoses:
    """Round a frame to the decimals of results, so that all formats agree."""
    people = (
        replace(
            person,
            box=rounded(person.box, PIXEL_DECIMALS),
            box_score=rounded_score(person.box_score),
            score=rounded_score(person.score),
            keypoints=keypoint_rows(person),
        )
        for person in frame.people
    )
    return replace(frame, people=tuple(people))


def box_xywh(box: np.ndarray) -> list[float]:
    """Convert xyxy to [x, y, width, height] in pixels, rounded."""
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    return rounded([x0, y0, x1 - x0, y1 - y0], PIXEL_DECIMALS).tolist()


def json_line(record: object) -> str:
    """Serialise as strict JSON on one line: NaN is a ValueError, non-ASCII letters are not escaped.

    File names that are not UTF-8 have lone surrogates, which are invalid in JSON files and
    replaced.
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def array_items(lines: Iterable[str]) -> Iterator[str]:
    """Join lines to the elements of a JSON array, one per line."""
    for index, line in enumerate(lines):
        yield f",\n{line}" if index else f"\n{line}"
