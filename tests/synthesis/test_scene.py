import numpy as np

from diffusionpose.synthesis import scene
from diffusionpose.synthesis.body import turn
from diffusionpose.synthesis.render import normals

SIZE = 100


def test_the_camera_has_all_of_a_person_in_the_picture_upright():
    rng = np.random.default_rng(0)
    outline = rng.normal(size=(500, 3)) * (0.3, 0.2, 0.5)
    low, high = outline.min(0), outline.max(0)
    middle = (low + high) / 2
    for seed in range(30):
        view, eye = scene._camera(outline, np.random.default_rng(seed))
        pixels = scene.project(outline, view, SIZE)
        assert (pixels >= -0.5).all()
        assert (pixels <= SIZE - 0.5).all()
        # It fills the picture, at least two thirds of a side.
        assert np.ptp(pixels, axis=0).max() > SIZE / 3
        ends = scene.project(middle + np.array([[0, 0, 0.2], [0, 0, -0.2]]), view, SIZE)
        assert ends[0, 1] < ends[1, 1]
        np.testing.assert_allclose(np.linalg.norm(eye), 1)
        np.testing.assert_allclose(scene.project(middle[None], view, SIZE), [[49.5, 49.5]])


def test_what_is_nearer_the_camera_has_less_depth_and_the_left_of_who_faces_it_is_on_the_right():
    outline = np.array([[-0.3, -0.3, -0.9], [0.3, 0.3, 0.9]])
    for seed in range(50):
        view, eye = scene._camera(outline, np.random.default_rng(seed))
        clip = np.array([*eye, 1]), np.array([*-eye, 1])
        near, far = (view @ point for point in clip)
        assert near[2] / near[3] < far[2] / far[3]
        if eye[1] < -0.9:
            left, right = scene.project(np.array([[0.2, 0, 0], [-0.2, 0, 0]]), view, SIZE)
            assert left[0] > right[0]


def test_people_lie_over_the_photo_where_they_are_drawn():
    drawn = np.zeros((40, 40, 4), np.float32)
    drawn[10:30, 10:30] = (0.25, 0.5, 1.0, 1.0)
    ground = np.full((40, 40, 3), 200, np.uint8)
    picture = scene._composed(drawn, ground, np.ones(3), np.random.default_rng(0)).astype(float)
    np.testing.assert_allclose(picture[:6].mean((0, 1)), 200, atol=2)
    expected = 255 * np.array([0.25, 0.5, 1.0]) ** (1 / 1.6)
    np.testing.assert_allclose(picture[14:26, 14:26].mean((0, 1)), expected, atol=4)


def test_backgrounds_are_parts_of_the_photos_at_the_size():
    rng = np.random.default_rng(0)
    photos = [np.full((120, 90, 3), level, np.uint8) for level in (10, 200)]
    levels = {scene._background(photos, 64, rng)[..., 0].mean() for _ in range(20)}
    assert levels == {10.0, 200.0}


def test_turn_is_the_smallest_rotation():
    rng = np.random.default_rng(0)
    for _ in range(20):
        source, target = rng.normal(size=(2, 3))
        rotation = turn(source, target)
        turned = rotation @ source / np.linalg.norm(source)
        np.testing.assert_allclose(turned, target / np.linalg.norm(target), atol=1e-9)
        axis = np.cross(source, target)
        np.testing.assert_allclose(rotation @ axis, axis, atol=1e-9)
        np.testing.assert_allclose(np.linalg.det(rotation), 1)


def test_normals_point_out_of_a_tetrahedron():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    found = normals(vertices, faces)
    outwards = vertices - vertices.mean(0)
    assert ((found * outwards).sum(1) > 0).all()
