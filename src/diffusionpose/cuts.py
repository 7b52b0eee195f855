"""Where a video cuts to another scene.

Frames are compared as small grey pictures, block by block. After a cut, hardly any block of the picture is found again;
when the camera pans or somebody walks through, most are, near their old place. See `docs/decisions/026-cuts.md`.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from diffusionpose.structures import Frame, VideoIssue, VideoVerdict

LONG_SIDE = 64
"""Of the small picture, pixels."""
BLOCK, STEP, REACH = 16, 8, 8
"""Side of a block, distance between blocks, and how far from its place a block is looked for."""
CONTRAST, LEAST_BLOCKS = 3.0, 6
"""Blocks with a smaller standard deviation, in grey levels, look like any other; a picture with fewer blocks is blank."""
BEST_SHARE = 0.6
"""Of the blocks, those that match best: the others may be hidden by somebody who walks through."""
CHANGE = 0.22
"""A cut changes a picture by so much more than the frames around it change."""
AROUND = 2
"""Frames on either side that a change is compared with. A flash or a damaged picture is no cut when it is shorter."""
MOST_NAMED = 8
"""Frames that a note names."""


@dataclass(frozen=True, eq=False)
class _Look:
    """A frame, as it is compared.

    Args:
        frame: The frame.
        small: (height, width) float32 grey; None if it is blank.
        before: The small picture of the last frame before that is not blank.
        change: From `before` to `small`, in [0, 1].
    """

    frame: Frame
    small: np.ndarray | None
    before: np.ndarray | None
    change: float


def mark_cuts(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The same frames, `AROUND` frames late, with `cut` set on the first frame of every further scene.

    Dissolves are not found. Through black or another blank picture, scenes are compared across it. Where `cut` is set
    already, it stays.
    """
    past: deque[_Look] = deque(maxlen=AROUND + 1)
    coming: deque[_Look] = deque()
    before: np.ndarray | None = None
    for frame in frames:
        small = _small(frame.image)
        coming.append(_Look(frame, small, before, _change(before, small)))
        before = before if small is None else small
        if len(coming) > AROUND:
            yield _judged(past, coming)
            past.append(coming.popleft())
    while coming:
        yield _judged(past, coming)
        past.append(coming.popleft())


def note_cuts(verdict: VideoVerdict, cuts: Sequence[int]) -> VideoVerdict:
    """The verdict, with a note of the frames that scenes begin at."""
    if not cuts:
        return verdict
    named = ", ".join(map(str, cuts[:MOST_NAMED])) + (" ..." if len(cuts) > MOST_NAMED else "")
    what = f"a cut at frame {named}" if len(cuts) == 1 else f"{len(cuts)} cuts at frames {named}"
    text = f"{what}: nobody keeps an id across a cut"
    issue = VideoIssue("CUTS", text, "info", cuts[0])
    return replace(verdict, issues=(*verdict.issues, issue))


def _judged(past: Sequence[_Look], coming: Sequence[_Look]) -> Frame:
    """The frame of the first look that is coming."""
    look, *later = coming
    around = [other.change for other in (*list(past)[-AROUND:], *later)]
    least = CHANGE + (float(np.mean(around)) if around else 0.0)
    # The picture before must not come back, nor the new one be an old one that does.
    pairs = [(look.before, other.small) for other in coming]
    pairs += [(other.small, look.small) for other in past]
    is_cut = look.change > least and all(
        _change(first, second) > least
        for first, second in pairs
        if first is not None and second is not None
    )
    return replace(look.frame, cut=True) if is_cut else look.frame


def _small(image: np.ndarray) -> np.ndarray | None:
    """(height, width, 3) RGB as a small grey picture; None if it is blank."""
    scale = LONG_SIDE / max(image.shape[:2])
    height, width = (max(BLOCK, round(side * scale)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return grey if len(_blocks(grey)) >= LEAST_BLOCKS else None


def _blocks(grey: np.ndarray) -> list[tuple[int, int]]:
    """(y, x) of the corners of all blocks with enough contrast."""
    windows = np.lib.stride_tricks.sliding_window_view(grey, (BLOCK, BLOCK))[::STEP, ::STEP]
    return [(y * STEP, x * STEP) for y, x in np.argwhere(windows.std((2, 3)) >= CONTRAST).tolist()]


def _change(first: np.ndarray | None, second: np.ndarray | None) -> float:
    """How little of either picture is found in the other, in [0, 1]; 0 where one is blank."""
    if first is None or second is None:
        return 0.0
    return min(_not_found(first, second), _not_found(second, first))


def _not_found(pattern: np.ndarray, picture: np.ndarray) -> float:
    """One minus the mean correlation of the best blocks of a picture with another one."""
    padded = cv2.copyMakeBorder(picture, REACH, REACH, REACH, REACH, cv2.BORDER_REPLICATE)
    side = BLOCK + 2 * REACH
    found = [
        cv2.matchTemplate(
            padded[y : y + side, x : x + side],
            pattern[y : y + BLOCK, x : x + BLOCK],
            cv2.TM_CCOEFF_NORMED,
        ).max()
        for y, x in _blocks(pattern)
    ]
    best = np.sort(found)[-max(1, round(BEST_SHARE * len(found))) :]
    return float(np.clip(1 - best.mean(), 0, 1))
