"""Detection of cuts between scenes.

Frames are compared block by block as small grey images. After a cut, hardly any block is found
again; when the camera pans or somebody walks through, most are, near their old position. See
`docs/decisions/026-cuts.md`.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from diffusionpose.structures import Frame, VideoIssue, VideoVerdict

LONG_SIDE = 64
"""Longer side of the small image in pixels."""
BLOCK, STEP, REACH = 16, 8, 8
"""Side of a block, distance between blocks, and search radius of a block, in pixels."""
CONTRAST, LEAST_BLOCKS = 3.0, 6
"""Minimum standard deviation of a block in grey levels; images with fewer such blocks are blank."""
BEST_SHARE = 0.6
"""Share of the best-matching blocks that is used: the others may be occluded by a passer-by."""
CHANGE = 0.22
"""Minimum excess of the change at a cut over the changes of the frames around it."""
AROUND = 2
"""Number of frames on either side that a change is compared with; shorter flashes are not cuts."""
MOST_NAMED = 8
"""Maximum number of frames named in a note."""


@dataclass(frozen=True, eq=False)
class _Look:
    """A frame in the form in which it is compared.

    Args:
        frame: The frame.
        small: (height, width) float32 grey image; None if blank.
        before: `small` of the last earlier frame that is not blank; None if there is none.
        change: From `before` to `small`, in [0, 1].
    """

    frame: Frame
    small: np.ndarray | None
    before: np.ndarray | None
    change: float


def mark_cuts(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield the frames, `AROUND` frames late, with `cut` set on the first frame of every new scene.

    Dissolves are not detected. Blank frames, such as black ones, are skipped in comparisons. A
    `cut` that is already set is kept.
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
    """Add an issue that names the frames at which scenes begin."""
    if not cuts:
        return verdict
    named = ", ".join(map(str, cuts[:MOST_NAMED])) + (" ..." if len(cuts) > MOST_NAMED else "")
    what = f"a cut at frame {named}" if len(cuts) == 1 else f"{len(cuts)} cuts at frames {named}"
    text = f"{what}: nobody keeps an id across a cut"
    issue = VideoIssue("CUTS", text, "info", cuts[0])
    return replace(verdict, issues=(*verdict.issues, issue))


def _judged(past: Sequence[_Look], coming: Sequence[_Look]) -> Frame:
    """Return the frame of the first look in `coming`, with `cut` set if it begins a new scene."""
    look, *later = coming
    around = [other.change for other in (*list(past)[-AROUND:], *later)]
    least = CHANGE + (float(np.mean(around)) if around else 0.0)
    # Not a cut if the previous image returns soon, or the new one was there before: a flash.
    pairs = [(look.before, other.small) for other in coming]
    pairs += [(other.small, look.small) for other in past]
    is_cut = look.change > least and all(
        _change(first, second) > least
        for first, second in pairs
        if first is not None and second is not None
    )
    return replace(look.frame, cut=True) if is_cut else look.frame


def _small(image: np.ndarray) -> np.ndarray | None:
    """Downscale a (height, width, 3) RGB image to a small grey one; None if it is blank."""
    scale = LONG_SIDE / max(image.shape[:2])
    height, width = (max(BLOCK, round(side * scale)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return grey if len(_blocks(grey)) >= LEAST_BLOCKS else None


def _blocks(grey: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners (y, x) of all blocks with enough contrast."""
    windows = np.lib.stride_tricks.sliding_window_view(grey, (BLOCK, BLOCK))[::STEP, ::STEP]
    return [(y * STEP, x * STEP) for y, x in np.argwhere(windows.std((2, 3)) >= CONTRAST).tolist()]


def _change(first: np.ndarray | None, second: np.ndarray | None) -> float:
    """Change between two images in [0, 1], the smaller of both directions; 0 if either is blank."""
    if first is None or second is None:
        return 0.0
    return min(_not_found(first, second), _not_found(second, first))


def _not_found(pattern: np.ndarray, picture: np.ndarray) -> float:
    """One minus the mean correlation of the best blocks of `pattern` in `picture`."""
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
