import numpy as np
import pytest

from diffusionpose.errors import DataError
from diffusionpose.synthesis.motion import read_bvh
from tests.synthesis.made import bvh


def test_rotations_go_down_the_chain_and_from_y_up_to_z_up(tmp_path):
    turns = {
        # About z, which points to the front: the left arm, out to the side, drops.
        "LeftArm": np.array([[-90.0, 0, 0]] * 6),
        "LeftForeArm": np.array([[0, -90.0, 0]] * 6),
    }
    motion = read_bvh(bvh(tmp_path / "a.bvh", turns))
    assert len(motion) == 6
    upper = motion.rotations["LeftArm"][3] @ motion.offsets["LeftForeArm"]
    np.testing.assert_allclose(upper, [0, 0, -3], atol=1e-9)
    # The forearm turns about its parent's y, which now points to the left: its end comes to the front.
    lower = motion.rotations["LeftForeArm"][3] @ motion.offsets["LeftHand"]
    np.testing.assert_allclose(lower, [0, -3, 0], atol=1e-9)
    np.testing.assert_allclose(motion.rotations["RightArm"][3], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(motion.root[4], [2, 0, 10])


def test_the_order_of_the_channels_is_the_files(tmp_path):
    turns = {"Hips": np.array([[90.0, 90.0, 0]] * 6)}
    path = bvh(tmp_path / "a.bvh", turns)
    forward = read_bvh(path).rotations["Hips"][0]
    text = path.read_text().replace("Zrotation Yrotation", "Yrotation Zrotation", 1)
    path.write_text(text)
    other = read_bvh(path).rotations["Hips"][0]
    # About y, then z of the parent: left goes back and stays; the other way round, it goes up.
    np.testing.assert_allclose(forward @ [1, 0, 0], [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(other @ [1, 0, 0], [0, 0, 1], atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "nothing", "not a BVH file, or truncated"),
        (lambda text: text[: text.index("Frames")], "not a BVH file, or truncated"),
        (lambda text: text.rstrip()[:-20], "not a BVH file, or truncated"),
        (lambda text: text.replace("0.5 10", "nan 10"), "frames with NaN or infinite values"),
        (lambda text: text.replace("LeftFoot", "l_foot"), "has no bone LeftFoot"),
    ],
)
def test_what_is_no_motion_is_said_to_be_so(tmp_path, change, message):
    path = bvh(tmp_path / "a.bvh")
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=message) as caught:
        read_bvh(path)
    assert "a.bvh" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"b\.bvh"):
        read_bvh(tmp_path / "b.bvh")
