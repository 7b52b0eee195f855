"""Places of tags, by their numbers; tests/test_render.py judges them in pictures."""

import numpy as np

from diffusionpose.tag_places import Tag, place_tag

EXTENT = np.array([40.0, 30, 80, 190])
HEAD = (np.array([60.0, 50]), 10.0)
REACH = np.array([12.0, 8])


def placed(number, size):
    tags: list[Tag] = []
    for _ in range(number):
        tags.append(place_tag(EXTENT, HEAD, REACH, tags, size))
    return np.array([tag.middle for tag in tags])


def test_the_first_is_above_the_head_and_the_others_around_it():
    places = placed(5, (200, 220))
    np.testing.assert_allclose(places[:2], [[60, 32], [60, 16]])
    # The third has no room above, and is beside the first.
    np.testing.assert_allclose(places[2:4], [[84, 32], [108, 32]])
    assert (places >= REACH).all()
    assert (places <= np.array([200, 220]) - 1 - REACH).all()
    apart = np.abs(places[:, None] - places) >= 2 * REACH - 1e-6
    assert (apart.any(-1) | np.eye(5, dtype=bool)).all()


def test_without_room_a_tag_stays_at_its_head():
    places = placed(6, (100, 220))
    np.testing.assert_allclose(places[3:5], [[36, 32], [12, 32]])
    np.testing.assert_allclose(places[5], [60, 32])
