"""Clothes, shoes and hair of MakeHuman: meshes tied to the vertices of its base mesh (`.mhclo` and `.obj`)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusionpose.errors import DataError

BASE_MESH = "hm08"
_SCALES = ("x_scale", "y_scale", "z_scale")
_KINDS = {"hair": "hair", "shoes": "shoes", "fedora": "hat"}
"""By how their folders are named; everything else is a suit."""


@dataclass(frozen=True)
class Garment:
    """One thing to wear.

    Args:
        name: Of its folder.
        kind: suit, shoes, hat or hair.
        vertices: (n, 3) of the base mesh that each of its own is tied to.
        weights: (n, 3) of these.
        offsets: (n, 3) from there, in units of `scales`; x to the left, y up, z to the front.
        scales: For each axis two vertices of the base mesh and the distance of theirs at which an offset's unit is 1.
        faces: (m, 3) triangles.
        hidden: Vertices of the base mesh that it covers.
    """

    name: str
    kind: str
    vertices: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    scales: tuple[tuple[int, int, float], ...]
    faces: np.ndarray
    hidden: frozenset[int]

    def fit(self, body: np.ndarray) -> np.ndarray:
        """(n, 3) places of its vertices on a body in its rest pose, (base vertices, 3); z up, y to the back."""
        upright = body[:, [0, 2, 1]] * (1, 1, -1)
        size = [
            abs(upright[first, axis] - upright[second, axis]) / distance
            for axis, (first, second, distance) in enumerate(self.scales)
        ]
        tied = (upright[self.vertices] * self.weights[..., None]).sum(1)
        placed = tied + self.offsets * size
        return placed[:, [0, 2, 1]] * (1, -1, 1)

    def fit_weights(self, body: np.ndarray) -> np.ndarray:
        """(n, bones) skinning weights from the body's, (base vertices, bones)."""
        share = np.clip(self.weights, 0, 1)
        share = share / share.sum(1, keepdims=True)
        return np.einsum("nk,nkb->nb", share, body[self.vertices])


def read_garment(folder: Path, num_vertices: int) -> Garment:
    """A folder with one `.mhclo` and its `.obj`; of several, the first by name.

    Args:
        folder: Of the garment.
        num_vertices: Of the base mesh.

    Raises:
        DataError: If they cannot be read or do not fit the base mesh.
    """
    try:
        description = min(folder.glob("*.mhclo"))
        mesh = min(folder.glob("*.obj"))
    except ValueError:
        raise DataError(f"{folder}: has no .mhclo with an .obj") from None
    try:
        fields, ties, hidden = _read_description(description)
        faces = _read_faces(mesh)
        if fields["basemesh"] != [BASE_MESH]:
            raise DataError(f"{description}: made for another base mesh than {BASE_MESH}")
        scales = tuple(
            (int(fields[name][0]), int(fields[name][1]), float(fields[name][2])) for name in _SCALES
        )
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except (KeyError, ValueError, IndexError):
        raise DataError(f"{description}: not a garment of MakeHuman, or cut off") from None
    if not len(ties) or not len(faces):
        raise DataError(f"{description}: has no vertices, or its .obj no faces")
    tied = ties[:, :3].astype(int)
    if min(tied.min(), faces.min()) < 0 or tied.max() >= num_vertices or faces.max() >= len(ties):
        raise DataError(f"{description}: names vertices that are not there")
    kind = next((k for word, k in _KINDS.items() if word in str(folder).lower()), "suit")
    return Garment(
        folder.name, kind, tied, ties[:, 3:6], ties[:, 6:9], scales, faces, frozenset(hidden)
    )


def _read_description(path: Path) -> tuple[dict[str, list[str]], np.ndarray, set[int]]:
    """Its fields, (n, 9) ties of its vertices, and what it hides."""
    fields: dict[str, list[str]] = {}
    ties: list[list[float]] = []
    hidden: set[int] = set()
    section = ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("verts", "delete_verts"):
            section = words[0]
        elif words[0][0].isalpha():
            fields[words[0]] = words[1:]
        elif section == "verts":
            # A single number: the vertex lies on one of the body's.
            row = [float(word) for word in words]
            ties.append(row if len(row) > 1 else [row[0]] * 3 + [1.0] + [0.0] * 5)
        elif section == "delete_verts":
            for part in " ".join(words).replace(" - ", "-").split():
                first, _, last = part.partition("-")
                hidden.update(range(int(first), int(last or first) + 1))
    return fields, np.array(ties).reshape(-1, 9), hidden


def _read_faces(path: Path) -> np.ndarray:
    """(m, 3) triangles of an OBJ file's polygons."""
    triangles: list[tuple[int, int, int]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("f "):
            corners = [int(word.split("/")[0]) - 1 for word in line.split()[1:]]
            triangles += [
                (corners[0], corners[n], corners[n + 1]) for n in range(1, len(corners) - 1)
            ]
    return np.array(triangles).reshape(-1, 3)
