"""Multi-view consistency of joints in synchronised videos of a scene; needs no labels.

    python benchmarks/bench_views.py VIDEO VIDEO... --people 3,1,2,1 1,2,1,2 [--no-peers]

Each value of `--people` is a person: their track ids from `predict`, one per video, 0 where they
are not visible. A joint that is correct in two views lies on the epipolar line of the other view's
joint. For each pair of cameras the fundamental matrix is fitted robustly to the joints found by all
models together, so that none has an advantage; lens distortion is neglected. Reported is the
distance to the epipolar line in torso lengths, as the root mean square over the two views. Errors
along a line are not measured, and errors of the fundamental matrix affect all models alike, so
compare models rather than absolute values. Peers (`peers/`) get the same boxes.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import prepare, row, start_table

prepare()

import cv2
import numpy as np

from diffusionpose.data.clips import ClipRecord
from diffusionpose.metrics.pck import LIMB_JOINTS, torso_lengths
from diffusionpose.poses import Track
from diffusionpose.predict import PosePipeline
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.video import open_video

LIMBS = [POSETRACK15.index(joint) for joint in LIMB_JOINTS]
OURS, WITHIN, INLIER = "ours", (0.05, 0.1, 0.2), 8.0
Found = dict[tuple[str, int, int], np.ndarray]
"""By model, camera and person: (frames, 12, 2) pixels, NaN where the person is not visible."""


def records_of(track: Track, pictures: Sequence[Path]) -> list[ClipRecord]:
    """Return the frames of a track as records for the peers."""
    unknown = np.full((POSETRACK15.num_joints, 2), np.nan)
    return [
        ClipRecord(
            frames=(pictures[frame],) * 3,
            keypoints=unknown,
            box=track.box[frame],
            video="",
            image_id=frame,
            track_id=track.track_id,
        )
        for frame in np.flatnonzero(track.present).tolist()
    ]


def write_pictures(path: Path, folder: Path) -> list[Path]:
    """Write all frames of a video as PNG files."""
    pictures = []
    with open_video(path) as video:
        for frame in video:
            pictures.append(folder / f"{frame.index:06d}.png")
            cv2.imwrite(str(pictures[-1]), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    return pictures


def find(videos: Sequence[Path], people: Sequence[Sequence[int]], model: str, peers: bool) -> Found:
    """Predict the joints of all people with each model."""
    pipeline = PosePipeline.from_pretrained(model, device="cpu")
    found: Found = {}
    for camera, path in enumerate(videos):
        poses = pipeline(path)
        tracks = {n: poses.track(ids[camera]) for n, ids in enumerate(people) if ids[camera]}
        for person, track in tracks.items():
            found[OURS, camera, person] = track.keypoints[:, LIMBS]
        if peers:
            from peers import PEERS, predict

            with tempfile.TemporaryDirectory() as folder:
                pictures = write_pictures(path, Path(folder))
                for (person, track), name in itertools.product(tracks.items(), PEERS):
                    points = np.full((len(track), len(LIMBS), 2), np.nan)
                    points[track.present] = predict(name, records_of(track, pictures))[:, LIMBS]
                    found[name, camera, person] = points
    return found


def torso(points: np.ndarray) -> float:
    """Return the median torso length over frames."""
    return float(np.nanmedian(torso_lengths(points, LIMB_JOINTS)))


def to_line(points: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Return the distance in pixels from each point (n, 3) to its line (n, 3)."""
    return np.abs((points * lines).sum(-1)) / np.linalg.norm(lines[:, :2], axis=-1)


def distances(found: Found, num_people: int, cameras: tuple[int, int]) -> dict[str, np.ndarray]:
    """Return, for each model, the distances of joints to epipolar lines in torso lengths."""
    seen = [
        person
        for person in range(num_people)
        if all((OURS, camera, person) in found for camera in cameras)
    ]
    sizes = np.array([[torso(found[OURS, c, person]) for c in cameras] for person in seen])
    pairs = {
        name: np.stack([[found[name, c, person] for c in cameras] for person in seen])
        for name in {key[0]: None for key in found}
    }  # (people, 2 cameras, frames, joints, 2)
    pooled = np.concatenate([p.transpose(0, 2, 3, 1, 4).reshape(-1, 2, 2) for p in pairs.values()])
    pooled = pooled[np.isfinite(pooled).all((1, 2))]
    matrix, _ = cv2.findFundamentalMat(
        pooled[:, 0], pooled[:, 1], cv2.USAC_MAGSAC, INLIER, 0.999, 100_000
    )
    out = {}
    for name, points in pairs.items():
        a, b = (np.insert(points[:, n], 2, 1, axis=-1) for n in (0, 1))
        of_people = []
        for person, (size_a, size_b) in enumerate(sizes):
            in_a, in_b = a[person].reshape(-1, 3), b[person].reshape(-1, 3)
            off_a = to_line(in_a, in_b @ matrix) / size_a
            off_b = to_line(in_b, in_a @ matrix.T) / size_b
            of_people.append(np.sqrt((off_a**2 + off_b**2) / 2))
        values = np.concatenate(of_people)
        out[name] = values[np.isfinite(values)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--people", nargs="+", required=True, metavar="ID,ID,...")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    people = [[int(number) for number in ids.split(",")] for ids in options.people]
    if len(options.videos) < 2 or any(len(ids) != len(options.videos) for ids in people):
        parser.error("give at least two videos, and as many track ids per person as videos")
    if not options.no_peers:
        from peers import setup

        setup()
    found = find(options.videos, people, options.model, not options.no_peers)
    of_pairs = [
        distances(found, len(people), cameras)
        for cameras in itertools.combinations(range(len(options.videos)), 2)
    ]
    start_table(
        ["joints", "pairs", "median", *(f"within {share}" for share in WITHIN)]
        + [
            f"cameras {a + 1}, {b + 1}"
            for a, b in itertools.combinations(range(len(options.videos)), 2)
        ]
    )
    for name in of_pairs[0]:
        values = np.concatenate([distance[name] for distance in of_pairs])
        row(
            [name, str(len(values)), f"{np.median(values):.3f}"]
            + [f"{np.mean(values < share):.3f}" for share in WITHIN]
            + [f"{np.mean(distance[name] < WITHIN[1]):.3f}" for distance in of_pairs]
        )


if __name__ == "__main__":
    main()
