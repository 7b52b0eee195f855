import numpy as np
import pytest

from diffusionpose.skeleton import COCO17, LSP14, POSETRACK15, POSETRACK17, Skeleton, remap


def test_posetrack15_is_posetrack18_without_ears():
    order = [j for j in POSETRACK17.joints if not j.endswith("ear")]
    assert list(POSETRACK15.joints) == order
    assert (len(POSETRACK15.limbs), len(POSETRACK15.limb_pairs)) == (14, 19)
    assert POSETRACK15.is_tree
    assert LSP14.is_tree
    assert not COCO17.is_tree


@pytest.mark.parametrize("skeleton", [POSETRACK15, POSETRACK17, COCO17, LSP14])
def test_flip_swaps_sides_and_nothing_else(skeleton):
    for joint, mirrored in enumerate(skeleton.flip_permutation):
        assert skeleton.flip_permutation[mirrored] == joint
        sides = skeleton.side(joint), skeleton.side(mirrored)
        assert sides in {("left", "right"), ("right", "left"), ("centre", "centre")}


def test_remap_by_name_and_back():
    values = np.random.default_rng(0).uniform(size=(4, 15, 2))
    there = remap(values, POSETRACK15.joints, POSETRACK17.joints)
    assert np.isnan(there[:, 3:5]).all()
    np.testing.assert_array_equal(remap(there, POSETRACK17.joints, POSETRACK15.joints), values)


def test_bad_skeletons():
    with pytest.raises(ValueError, match="duplicate joint names"):
        Skeleton("x", ("a", "a"), ())
    with pytest.raises(ValueError, match="limb"):
        Skeleton("x", ("a", "b"), ((0, 2),))
    with pytest.raises(KeyError, match="tail"):
        POSETRACK15.index("tail")
