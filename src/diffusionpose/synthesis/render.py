"""Off-screen rendering of meshes with OpenGL: one light, procedural patterns, photo textures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusionpose.errors import DiffusionPoseError, MissingExtraError, first_line

_VERTEX = """
#version 330
in vec3 place; in vec3 normal; in vec3 colour; in vec3 rest;
uniform mat4 view;
out vec3 n; out vec3 c; out vec3 q;
void main() { gl_Position = view * vec4(place, 1.0); n = normal; c = colour; q = rest; }
"""
_FRAGMENT = """
#version 330
in vec3 n; in vec3 c; in vec3 q;
uniform vec3 light; uniform vec3 eye; uniform float ambient;
uniform int pattern; uniform float frequency; uniform vec3 second; uniform float lowest;
uniform sampler2D cloth;
out vec4 pixel;
float hash(vec3 x) { return fract(sin(dot(x, vec3(12.9898, 78.233, 37.719))) * 43758.5453); }
float noise(vec3 x) {
    vec3 i = floor(x), f = fract(x);
    f = f * f * (3.0 - 2.0 * f);
    vec4 low = vec4(hash(i), hash(i + vec3(1, 0, 0)), hash(i + vec3(0, 1, 0)), hash(i + vec3(1, 1, 0)));
    vec3 j = i + vec3(0, 0, 1);
    vec4 high = vec4(hash(j), hash(j + vec3(1, 0, 0)), hash(j + vec3(0, 1, 0)), hash(j + vec3(1, 1, 0)));
    vec4 level = mix(low, high, f.z);
    return mix(mix(level.x, level.y, f.x), mix(level.z, level.w, f.x), f.y);
}
float striped(float x) { return step(0.5, fract(x * frequency)); }
void main() {
    vec3 m = normalize(n);
    if (dot(m, eye) < 0.0) m = -m;
    float share = 0.0;
    if (pattern == 1) share = striped(q.z);
    if (pattern == 2) share = striped(q.x);
    if (pattern == 3) share = abs(striped(q.x) - striped(q.z));
    if (pattern == 4) share = smoothstep(0.4, 0.6, noise(q * frequency));
    vec3 other = second;
    if (pattern == 5) { share = 1.0; other = pow(texture(cloth, q.xz * frequency).rgb, vec3(1.6)); }
    vec3 base = mix(c, other, q.z > lowest ? share : 0.0);
    float grain = 0.79 + 0.24 * noise(q * 25.0) + 0.18 * noise(q * 90.0);
    float lit = ambient * (0.65 + 0.35 * m.z) + (1.0 - ambient) * 1.15 * max(dot(m, light), 0.0);
    pixel = vec4(base * grain * lit, 1.0);
}
"""
PATTERNS = ("plain", "hoops", "stripes", "checks", "blots", "photo")
SAMPLES = 4


@dataclass(frozen=True)
class Mesh:
    """A mesh to draw.

    Args:
        vertices: (n, 3) in world coordinates.
        faces: (m, 3) triangles.
        colours: (n, 3) linear RGB in [0, 1].
        rest: (n, 3) vertices in the rest pose, to which patterns are fixed.
        pattern: One of `PATTERNS`.
        second: Colour of the pattern.
        frequency: Repetitions of the pattern per metre.
        lowest: Height in the rest pose above which the pattern is drawn.
        cloth: (height, width, 3) uint8 RGB texture for the pattern `photo`.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    rest: np.ndarray
    pattern: str = "plain"
    second: tuple[float, float, float] = (0.0, 0.0, 0.0)
    frequency: float = 1.0
    lowest: float = -np.inf
    cloth: np.ndarray | None = None


class Renderer:
    """Renders square images.

    Args:
        size: Height and width in pixels.

    Raises:
        MissingExtraError: If `moderngl` is not installed.
        DiffusionPoseError: If off-screen OpenGL (EGL) is not available; a software driver suffices.
    """

    def __init__(self, size: int) -> None:
        try:
            import moderngl  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise MissingExtraError("moderngl", "synthesis") from None
        self.size = size
        try:
            self._context: Any = moderngl.create_standalone_context(backend="egl")
        except Exception as error:  # noqa: BLE001 (glcontext raises bare exceptions)
            raise DiffusionPoseError(
                f"off-screen OpenGL is not available ({first_line(error)}); install a driver with "
                "EGL, such as Mesa's"
            ) from None
        make = self._context
        self._program: Any = make.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self._drawn: Any = make.framebuffer(
            [make.renderbuffer((size, size), 4, samples=SAMPLES)],
            make.depth_renderbuffer((size, size), samples=SAMPLES),
        )
        self._read: Any = make.framebuffer([make.renderbuffer((size, size), 4)])
        make.enable(moderngl.DEPTH_TEST)

    def draw(
        self,
        meshes: Sequence[Mesh],
        view: np.ndarray,
        eye: np.ndarray,
        light: np.ndarray,
        ambient: float,
    ) -> np.ndarray:
        """Draw meshes.

        Args:
            meshes: Meshes of the scene.
            view: (4, 4) matrix from world to clip space.
            eye: (3,) direction to the camera.
            light: (3,) direction to the light.
            ambient: Share of ambient light.

        Returns:
            (size, size, 4) linear RGB and coverage in [0, 1].
        """
        self._drawn.use()
        self._drawn.clear(0.0, 0.0, 0.0, 0.0)
        self._set(view=view.T.ravel(), light=light, eye=eye, ambient=ambient)
        for mesh in meshes:
            self._set(
                pattern=PATTERNS.index(mesh.pattern), frequency=mesh.frequency, second=mesh.second,
                lowest=max(mesh.lowest, -1e6),
            )  # fmt: skip
            rows = np.hstack(
                [mesh.vertices, normals(mesh.vertices, mesh.faces), mesh.colours, mesh.rest]
            )
            points = self._context.buffer(rows.astype(np.float32).tobytes())
            corners = self._context.buffer(mesh.faces.astype(np.int32).tobytes())
            released = [points, corners]
            if mesh.cloth is not None:
                released.append(self._cloth(mesh.cloth))
            layout = (points, "3f 3f 3f 3f", "place", "normal", "colour", "rest")
            array = self._context.vertex_array(self._program, [layout], corners)
            array.render()
            for part in (array, *released):
                part.release()
        self._context.copy_framebuffer(self._read, self._drawn)
        data = np.frombuffer(self._read.read(components=4), np.uint8)
        return data.reshape(self.size, self.size, 4)[::-1] / np.float32(255)

    def _cloth(self, photo: np.ndarray) -> Any:
        # Mirrored in both directions, so that the texture repeats without seams.
        wide = np.hstack([photo, photo[:, ::-1]])
        tile = np.ascontiguousarray(np.vstack([wide, wide[::-1]]))
        texture: Any = self._context.texture(tile.shape[1::-1], 3, tile.tobytes(), alignment=1)
        texture.build_mipmaps()
        texture.use()
        return texture

    def close(self) -> None:
        """Release the OpenGL context."""
        self._context.release()

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            self._program[name].value = tuple(value) if isinstance(value, np.ndarray) else value


def normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return (n, 3) vertex normals as area-weighted sums over faces; not of unit length."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    across = np.cross(b - a, c - a)
    found = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            found[:, axis] += np.bincount(faces[:, corner], across[:, axis], len(vertices))
    return found
