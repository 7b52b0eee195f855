"""MakeHuman garments and hair: meshes bound to vertices of the base mesh (`.mhclo` and `.obj`)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusionpose.errors import DataError

BASE_MESH = "hm08"
_SCALES = ("x_scale", "y_scale", "z_scale")
_KINDS = {"hair": "hair", "shoes": "shoes", "fedora": "hat"}
"""Kinds by words in the path of the folder; everything else is a suit."""


@dataclass(frozen=True)
class Garment:
    """A garment, bound to the base mesh.

    Args:
        name: Name of its folder.
        kind: suit, shoes, hat or hair.
        vertices: (n, 3) indices of the base-mesh vertices that each vertex is bound to.
        weights: (n, 3) weights of these vertices.
        offsets: (n, 3) offsets from the weighted mean in units of `scales`; x points to the left, y
            up, z to the front.
        scales: For each axis, two base-mesh vertices and the distance along the axis at which the
            unit of offsets is 1.
        faces: (m, 3) triangles.
        hidden: Base-mesh vertices covered by the garment.
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
        """Fit the garment to a body in its rest pose.

        Args:
            body: (base vertices, 3), with z up and y to the back.

        Returns:
            (n, 3) vertices of the garment.
        """
        upright = body[:, [0, 2, 1]] * (1, 1, -1)
        size = [
            abs(upright[first, axis] - upright[second, axis]) / distance
            for axis, (first, second, distance) in enumerate(self.scales)
        ]
        tied = (upright[self.vertices] * self.weights[..., None]).sum(1)
        placed = tied + self.offsets * size
        return placed[:, [0, 2, 1]] * (1, -1, 1)

    def fit_weights(self, body: np.ndarray) -> np.ndarray:
        """Return (n, bones) skinning weights, given the body's (base vertices, bones)."""
        share = np.clip(self.weights, 0, 1)
        share = share / share.sum(1, keepdims=True)
        return np.einsum("nk,nkb->nb", share, body[self.vertices])


def read_garment(folder: Path, num_vertices: int) -> Garment:
    """Read the garment in a folder: an `.mhclo` file and an `.obj`, the first ones by name.

    Args:
        folder: Folder of the garment.
        num_vertices: Number of vertices of the base mesh.

    Raises:
        DataError: If the files cannot be read or do not fit the base mesh.
    """
    try:
        description = min(folder.glob("*.mhclo"))
        mesh = min(folder.glob("*.obj"))
    except ValueError:
        raise DataError(f"{folder}: has no .mhclo file, or no .obj beside it") from None
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
        raise DataError(f"{description}: not a MakeHuman garment, or truncated") from None
    if not len(ties) or not len(faces):
        raise DataError(f"{description}: has no vertices, or its .obj has no faces")
    tied = ties[:, :3].astype(int)
    if min(tied.min(), faces.min()) < 0 or tied.max() >= num_vertices or faces.max() >= len(ties):
        raise DataError(f"{description}: refers to vertices that do not exist")
    kind = next((k for word, k in _KINDS.items() if word in str(folder).lower()), "suit")
    return Garment(
        folder.name, kind, tied, ties[:, 3:6], ties[:, 6:9], scales, faces, frozenset(hidden)
    )


def _read_description(path: Path) -> tuple[dict[str, list[str]], np.ndarray, set[int]]:
    """Return the fields of an `.mhclo` file, (n, 9) bindings of vertices, and hidden vertices."""
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
            # A single number binds the vertex to exactly one of the base mesh.
            row = [float(word) for word in words]
            ties.append(row if len(row) > 1 else [row[0]] * 3 + [1.0] + [0.0] * 5)
        elif section == "delete_verts":
            for part in " ".join(words).replace(" - ", "-").split():
                first, _, last = part.partition("-")
                hidden.update(range(int(first), int(last or first) + 1))
    return fields, np.array(ties).reshape(-1, 9), hidden


def _read_faces(path: Path) -> np.ndarray:
    """Return the polygons of an OBJ file as (m, 3) triangles."""
    triangles: list[tuple[int, int, int]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("f "):
            corners = [int(word.split("/")[0]) - 1 for word in line.split()[1:]]
            triangles += [
                (corners[0], corners[n], corners[n + 1]) for n in range(1, len(corners) - 1)
            ]
    return np.array(triangles).reshape(-1, 3)
