"""Detection of cuts between scenes, compared with PySceneDetect's detectors.

    python benchmarks/bench_cuts.py VIDEO VIDEO... [--no-peers]

Each VIDEO must be one scene. They are joined in random order, with all frames, every second and
every fourth one, so that people and cameras move faster. Scenes without a cut are the videos one by
one, the same with a flash in every tenth frame, and pans: a window that slides over a frame and its
mirror image and accelerates to the given share of its width per frame. Peers run with their default
settings, except that scenes may be two frames long.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import prepare, row, start_table

prepare()

import cv2
import numpy as np

from diffusionpose.cuts import mark_cuts
from diffusionpose.structures import Frame
from diffusionpose.video import open_video

SIDE = 320
"""Width of the frames, so that all videos have one size and fit into memory."""
STRIDES, PANS = (1, 2, 4), (0.06, 0.1, 0.15, 0.2, 0.3)
Images = Sequence[np.ndarray]
Finder = Callable[[Images], list[int]]


def ours(images: Images) -> list[int]:
    """Return the first frame of every scene but the first."""
    frames = (Frame(index, Fraction(index, 25), image) for index, image in enumerate(images))
    return [frame.index for frame in mark_cuts(frames) if frame.cut]


def peers() -> dict[str, Finder]:
    """Return PySceneDetect's detectors, by name."""
    import scenedetect as peer

    def finder(kind: Callable[..., "peer.SceneDetector"]) -> Finder:
        def find(images: Images) -> list[int]:
            detector = kind(min_scene_len=2)
            cuts = set()
            for index, image in enumerate(images):
                bgr = np.ascontiguousarray(image[..., ::-1])
                cuts.update(detector.process_frame(peer.FrameTimecode(index, 25.0), bgr))
            cuts.update(detector.post_process(peer.FrameTimecode(len(images), 25.0)))
            return sorted(cut.frame_num for cut in cuts)

        return find

    kinds = ("AdaptiveDetector", "ContentDetector", "HistogramDetector", "HashDetector")
    return {f"PySceneDetect {kind}": finder(getattr(peer, kind)) for kind in kinds}


def read(path: Path) -> list[np.ndarray]:
    """Read all frames of a video, scaled to one size."""
    with open_video(path) as video:
        images = [frame.image for frame in video]
    return [
        cv2.resize(image, (SIDE, SIDE * 3 // 4), interpolation=cv2.INTER_AREA) for image in images
    ]


def joined(videos: Iterable[Images], stride: int) -> tuple[list[np.ndarray], list[int]]:
    """Join scenes into one video; return it with the first frame of every scene but the first."""
    images: list[np.ndarray] = []
    cuts = []
    for video in videos:
        cuts.append(len(images))
        images += video[::stride]
    return images, cuts[1:]


def flashed(images: Images) -> list[np.ndarray]:
    """Brighten every tenth frame."""
    return [
        np.clip(1.4 * image + 60, 0, 255).astype(np.uint8) if index % 10 == 5 else image
        for index, image in enumerate(images)
    ]


def pan(image: np.ndarray, fastest: float) -> list[np.ndarray]:
    """Slide a window over an image and its mirror image, accelerating to `fastest` widths per frame."""
    around = np.hstack([image, image[:, ::-1]] * 8)
    speeds = np.concatenate([np.zeros(5), np.linspace(0, fastest, 6), np.full(5, fastest)])
    lefts = np.cumsum(np.concatenate([speeds, speeds[::-1]]) * SIDE * 3 // 4).astype(int)
    return [around[:, left : left + SIDE * 3 // 4] for left in lefts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    videos = [read(path) for path in args.videos]
    random.Random(0).shuffle(videos)
    contestants = {"ours": ours} | ({} if args.no_peers else peers())

    print(f"{len(videos)} scenes: cuts found / false cuts\n")
    start_table(
        ["", *(f"every {n}. frame" if n > 1 else "all frames" for n in STRIDES), "ms a frame"]
    )
    for name, find in contestants.items():
        cells, spent, num_frames = [], 0.0, 0
        for stride in STRIDES:
            images, cuts = joined(videos, stride)
            start = time.perf_counter()
            found = set(find(images))
            spent += time.perf_counter() - start
            num_frames += len(images)
            cells.append(f"{len(found & set(cuts))} of {len(cuts)} / {len(found - set(cuts))}")
        row([name, *cells, f"{1e3 * spent / num_frames:.1f}"])

    print("\nscenes without a cut in which one was found\n")
    start_table(["", "as they are", "with flashes", *(f"pan, {share:g} widths" for share in PANS)])
    for name, find in contestants.items():
        kinds: list[list[Images]] = [videos, [flashed(video) for video in videos]]
        kinds += [[pan(video[0], share) for video in videos] for share in PANS]
        row([name, *(str(sum(bool(find(scene)) for scene in scenes)) for scenes in kinds)])


if __name__ == "__main__":
    main()
