import numpy as np
import pytest

from diffusionpose.errors import DataError
from diffusionpose.synthesis.garments import read_garment
from tests.synthesis.made import garment

# z up, y to the back: 4 wide, 8 high, 3 deep between the vertices that give the scales.
BODY = np.array([[0.0, 0, 0], [4, 0, 0], [0, 0, 8], [0, 3, 0]])
ON_A_VERTEX = "2"
BETWEEN = "0 1 2 0.5 0.25 0.25 1 1 1"
TIES = f"{ON_A_VERTEX}\n{BETWEEN}\n3\n1"


def test_vertices_lie_where_their_ties_say(tmp_path):
    found = read_garment(garment(tmp_path / "suit01", TIES), len(BODY))
    placed = found.fit(BODY)
    np.testing.assert_allclose(placed[0], BODY[2])
    # A unit of x is 4 / 2, of y (up) 8 / 4, of z (to the front) 3 / 1.
    np.testing.assert_allclose(placed[1], 0.25 * BODY[1] + 0.25 * BODY[2] + (2, -3, 2))
    grown = found.fit(2 * BODY)
    np.testing.assert_allclose(grown, 2 * placed)


def test_skin_goes_with_the_same_vertices(tmp_path):
    found = read_garment(garment(tmp_path / "suit01", TIES), len(BODY))
    weights = found.fit_weights(np.eye(4))
    np.testing.assert_allclose(weights[:2], [[0, 0, 1, 0], [0.5, 0.25, 0.25, 0]])


def test_faces_become_triangles_and_ranges_are_hidden(tmp_path):
    found = read_garment(garment(tmp_path / "hair" / "short", TIES), len(BODY))
    assert found.faces.tolist() == [[0, 1, 2], [0, 1, 2], [0, 2, 3]]
    assert found.hidden == {0, 2, 3}
    assert found.kind == "hair"
    assert found.name == "short"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "hm09"}, "another base mesh"),
        ({"ties": "1\n2\n9\n0"}, "vertices that do not exist"),
        ({"ties": "1\n2"}, "vertices that do not exist"),
        ({"ties": "1\n2 x\n0\n3"}, "not a MakeHuman garment"),
        ({"ties": ""}, "has no vertices"),
        ({"faces": ""}, "no faces"),
        ({"hidden": "1 -"}, "not a MakeHuman garment"),
    ],
)
def test_what_is_no_garment_is_said_to_be_so(tmp_path, changes, message):
    folder = garment(tmp_path / "suit01", **({"ties": TIES} | changes))
    with pytest.raises(DataError, match=message):
        read_garment(folder, len(BODY))


def test_a_folder_without_one(tmp_path):
    with pytest.raises(DataError, match=r"has no \.mhclo"):
        read_garment(tmp_path, len(BODY))
