"""How every format spells numbers and records: decimals, exact fractions, strict JSON on one line; and counts, for people."""

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
    """Rounded float64; adding zero turns -0.0 into 0.0."""
    return np.asarray(values, np.float64).round(decimals) + 0.0


def rounded_score(value: float) -> float:
    """A score with the decimals that results carry."""
    return round(float(value), SCORE_DECIMALS) + 0.0


def rounded_seconds(time: Fraction) -> float:
    """A time with the decimals that results carry."""
    return round(float(time), SECOND_DECIMALS) + 0.0


def ratio_text(value: Fraction) -> str:
    """`num/den`, with the denominator even where it is 1."""
    return f"{value.numerator}/{value.denominator}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 frame`, `2 frames`; `many` where an s alone does not do."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def keypoint_rows(person: PersonPose) -> np.ndarray:
    """(num_joints, 3) x, y, score as they are written; NaN, NaN, 0 where anything is missing."""
    raw = np.asarray(person.keypoints, np.float64)
    xy, scores = rounded(raw[:, :2], PIXEL_DECIMALS), rounded(raw[:, 2:], SCORE_DECIMALS)
    out = np.concatenate([xy, scores], axis=1)
    out[~np.isfinite(raw).all(axis=1)] = np.nan, np.nan, 0
    return out


def rounded_frame(frame: FramePoses) -> FramePoses:
    """With the decimals that results carry, so that every format says the same."""
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
    """(x1, y1, x2, y2) -> [x, y, width, height], pixels, rounded."""
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    return rounded([x0, y0, x1 - x0, y1 - y0], PIXEL_DECIMALS).tolist()


def json_line(record: object) -> str:
    """Strict JSON on one line: NaN is a ValueError, letters of any script stay readable.

    A file name that is not UTF-8 reaches us with lone surrogates, which no JSON file may hold.
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def array_items(lines: Iterable[str]) -> Iterator[str]:
    """The lines as the elements of a JSON array, one a line."""
    for index, line in enumerate(lines):
        yield f",\n{line}" if index else f"\n{line}"
