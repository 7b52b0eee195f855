"""Small motions, garments and photos in the real formats."""

import cv2
import numpy as np

from diffusionpose.synthesis.motion import BONES

_CHILDREN = {
    "Hips": ("LHipJoint", "RHipJoint", "LowerBack"),
    "LHipJoint": ("LeftUpLeg",), "LeftUpLeg": ("LeftLeg",), "LeftLeg": ("LeftFoot",), "LeftFoot": ("LeftToeBase",),
    "RHipJoint": ("RightUpLeg",), "RightUpLeg": ("RightLeg",), "RightLeg": ("RightFoot",), "RightFoot": ("RightToeBase",),
    "LowerBack": ("Spine",), "Spine": ("Spine1",), "Spine1": ("Neck", "LeftShoulder", "RightShoulder"),
    "Neck": ("Neck1",), "Neck1": ("Head",),
    "LeftShoulder": ("LeftArm",), "LeftArm": ("LeftForeArm",), "LeftForeArm": ("LeftHand",),
    "RightShoulder": ("RightArm",), "RightArm": ("RightForeArm",), "RightForeArm": ("RightHand",),
}  # fmt: skip
_OFFSETS = {
    "LeftUpLeg": (1, -1, 0), "RightUpLeg": (-1, -1, 0), "LeftToeBase": (0, -1, 2), "RightToeBase": (0, -1, 2),
    "LeftLeg": (0, -4, 0), "RightLeg": (0, -4, 0), "LeftFoot": (0, -4, 0), "RightFoot": (0, -4, 0),
    "LeftArm": (2, 0, 0), "LeftForeArm": (3, 0, 0), "LeftHand": (3, 0, 0),
    "RightArm": (-2, 0, 0), "RightForeArm": (-3, 0, 0), "RightHand": (-3, 0, 0),
}  # fmt: skip


def bvh(path, turns=None, num_frames=6, left_out=()):
    """A T pose in every frame; `turns` gives a bone's Z, Y and X rotations in degrees, by frame."""
    lines, order = ["HIERARCHY"], []

    def write(bone, depth):
        order.append(bone)
        offset = " ".join(map(str, _OFFSETS.get(bone, (0, 1, 0))))
        kinds = "6 Xposition Yposition Zposition" if depth == 0 else "3"
        lines.extend(
            [
                f"{'ROOT' if depth == 0 else 'JOINT'} {bone}",
                "{",
                f"OFFSET {offset}",
                f"CHANNELS {kinds} Zrotation Yrotation Xrotation",
            ]
        )
        children = [child for child in _CHILDREN.get(bone, ()) if child not in left_out]
        for child in children:
            write(child, depth + 1)
        if not children:
            lines.extend(["End Site", "{", "OFFSET 0 1 0", "}"])
        lines.append("}")

    write("Hips", 0)
    assert set(order) | set(left_out) == set(BONES)
    lines += ["MOTION", f"Frames: {num_frames}", "Frame Time: 0.0333"]
    for frame in range(num_frames):
        row = [0.5 * frame, 10, 0]
        for bone in order:
            row.extend((turns or {}).get(bone, np.zeros((num_frames, 3)))[frame])
        lines.append(" ".join(map(str, row)))
    path.write_text("\n".join(lines) + "\n")
    return path


def garment(folder, ties, faces="f 1 2 3\nf 1/1 2/2 3/3 4/4\n", base="hm08", hidden="0 2 - 3"):
    folder.mkdir(parents=True)
    (folder / "made.obj").write_text(faces)
    (folder / "made.mhclo").write_text(
        f"# made\nbasemesh {base}\nx_scale 0 1 2.0\ny_scale 0 2 4.0\nz_scale 0 3 1.0\n"
        f"verts 0\nmaterial made.mhmat\n{ties}\ndelete_verts\n{hidden}\n"
    )
    return folder


def photos(folder, number=3):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(number):
        picture = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (160, 120))
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder
