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
SAMPLED_SIDE = 320
"""Larger images are sampled at about this many pixels a side: averaging all of 4K takes 14 ms."""
FLAT = 2.0
"""Maximum standard deviation of a row or column of a bar, in grey levels."""
MARGIN, EDGE = 2, 8.0
"""Number of pixels along a bar that compression mixes with it, and minimum contrast of the pixels
beyond them to the bar, in grey levels."""
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

_Bars = tuple[int, int]


@dataclass(frozen=True, eq=False)
class _View:
    """An image in the form in which it is compared.

    Args:
        size: (height, width) of the image.
        sampled: (height, width, 3) RGB.
        bars: Height and width in sampled pixels of the flat bars on opposite sides.
        small: (height, width) float32 grey image of what lies between the bars.
    """

    size: tuple[int, ...]
    sampled: np.ndarray
    bars: _Bars
    small: np.ndarray


@dataclass(frozen=True, eq=False)
class _Look:
    """A frame, and how it differs from what was seen before.

    Args:
        frame: The frame.
        view: Of its image; None if blank.
        before: `view` of the last earlier frame that is not blank; None if there is none.
        change: From `before` to `view`, in [0, 1].
    """

    frame: Frame
    view: _View | None
    before: _View | None
    change: float


def mark_cuts(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield the frames, `AROUND` frames late, with `cut` set on the first frame of every new scene.

    Dissolves are not detected. Blank frames, such as black ones, are skipped in comparisons. A
    `cut` that is already set is kept.
    """
    past: deque[_Look] = deque(maxlen=AROUND + 1)
    coming: deque[_Look] = deque()
    before: _View | None = None
    for frame in frames:
        view = _view(frame.image, before.bars if before else (0, 0))
        coming.append(_Look(frame, view, before, _change(before, view)))
        before = before if view is None else view
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
    text = f"{what}: each scene is tracked by itself"
    issue = VideoIssue("CUTS", text, "info", cuts[0])
    return replace(verdict, issues=(*verdict.issues, issue))


def _judged(past: Sequence[_Look], coming: Sequence[_Look]) -> Frame:
    """Return the frame of the first look in `coming`, with `cut` set if it begins a new scene."""
    look, *later = coming
    around = [other.change for other in (*list(past)[-AROUND:], *later)]
    least = CHANGE + (float(np.mean(around)) if around else 0.0)
    # Not a cut if the previous image returns soon, or the new one was there before: a flash.
    pairs = [(look.before, other.view) for other in coming]
    pairs += [(other.view, look.view) for other in past]
    is_cut = look.change > least and all(
        _change(first, second) > least
        for first, second in pairs
        if first is not None and second is not None
    )
    return replace(look.frame, cut=True) if is_cut else look.frame


def _view(image: np.ndarray, known: _Bars) -> _View | None:
    """View of a (height, width, 3) RGB image after one with the `known` bars; None if blank."""
    step = max(1, max(image.shape[:2]) // SAMPLED_SIDE)
    sampled = np.ascontiguousarray(image[::step, ::step])
    bars = _bars(cv2.cvtColor(sampled, cv2.COLOR_RGB2GRAY).astype(np.float32), known)
    small = _small(sampled, bars)
    is_blank = len(_blocks(small)) < LEAST_BLOCKS
    return None if is_blank else _View(image.shape, sampled, bars, small)


def _bars(grey: np.ndarray, known: _Bars) -> _Bars:
    """Bars of a (height, width) image; those known, or less, where their edges cannot be seen.

    An edge is straight: what is flat beside a figure before an even background is no bar.
    """
    flat = [_flat(grey), _flat(grey.T)]
    bars = []
    for lines, one, other, before in zip((grey, grey.T), flat, flat[::-1], known, strict=True):
        is_seen = True
        if one:
            inside = lines[[one + MARGIN, -1 - one - MARGIN], other : lines.shape[1] - other]
            is_seen = (np.abs(inside - lines[0, 0]) > EDGE).mean() > 0.5
        bars.append(one if is_seen else min(one, before))
    return bars[0], bars[1]


def _flat(lines: np.ndarray) -> int:
    """Number of flat rows of a (height, width) image at the top and the bottom, the smaller one."""
    # A picture between bars is centred; what is flat on one side only belongs to it.
    mean, square = (cv2.reduce(one, 1, cv2.REDUCE_AVG).ravel() for one in (lines, lines * lines))
    filled = np.flatnonzero(square - mean * mean > FLAT**2)
    bar = int(min(filled[0], len(lines) - 1 - filled[-1])) if len(filled) else 0
    return bar if len(lines) - 2 * bar >= BLOCK + 2 * MARGIN else 0


def _small(sampled: np.ndarray, bars: _Bars) -> np.ndarray:
    """Downscale what lies between the bars of a (height, width, 3) image to a small grey one.

    Bars are the same in all scenes: with their edges, half of the blocks would be found again.
    """
    # Along a bar's edge, compression mixes both.
    top, left = (bar + MARGIN if bar else 0 for bar in bars)
    height, width = sampled.shape[:2]
    inner = sampled[top : height - top, left : width - left]
    scale = LONG_SIDE / max(inner.shape[:2])
    height, width = (max(BLOCK, round(side * scale)) for side in inner.shape[:2])
    small = cv2.resize(inner, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _blocks(grey: np.ndarray) -> list[tuple[int, int]]:
    """Top left corners (y, x) of all blocks with enough contrast."""
    windows = np.lib.stride_tricks.sliding_window_view(grey, (BLOCK, BLOCK))[::STEP, ::STEP]
    return [(y * STEP, x * STEP) for y, x in np.argwhere(windows.std((2, 3)) >= CONTRAST).tolist()]


def _change(first: _View | None, second: _View | None) -> float:
    """Change between two images in [0, 1], the smaller of both directions; 0 if either is blank."""
    if first is None or second is None:
        return 0.0
    if first.size != second.size:
        return 1.0
    # What is dark at the edges of one of them is no bar of the other.
    bars = min(first.bars[0], second.bars[0]), min(first.bars[1], second.bars[1])
    one, other = (
        view.small if view.bars == bars else _small(view.sampled, bars) for view in (first, second)
    )
    return min(_not_found(one, other), _not_found(other, one))


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
    if len(found) < LEAST_BLOCKS:
        return 0.0
    best = np.sort(found)[-max(1, round(BEST_SHARE * len(found))) :]
    return float(np.clip(1 - best.mean(), 0, 1))
