import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionpose.nn.markov import (
    RULES,
    MarkovOptimizationLayer,
    MessageSchedule,
    flooding_messages,
    normalised,
    tree_messages,
)
from diffusionpose.skeleton import COCO17, POSETRACK15, Skeleton
from tests.oracles.tree import message


def random_tree(parents):
    limbs = tuple((child + 1, parent % (child + 1)) for child, parent in enumerate(parents))
    return Skeleton("random", tuple(f"j{i}" for i in range(len(parents) + 1)), limbs)


def layer_and_states(skeleton, seed=0, dim=6, rule="product"):
    torch.manual_seed(seed)
    layer = MarkovOptimizationLayer(dim, skeleton, rule=RULES[rule]).double()
    torch.nn.init.ones_(layer.gate)
    return layer, torch.randn(2, skeleton.num_joints, 3, dim, dtype=torch.float64)


def brute_force(layer, states, skeleton):
    """Messages by recursion from the layer's own potentials, which are tested separately.

    Computed anew, potentials near 0 could differ by more than the tolerance.
    """
    limbs = zip(layer.schedule.sources, layer.schedule.targets, strict=True)
    potentials = dict(zip(limbs, layer.local_potentials(states).unbind(1), strict=True))
    return {
        (j, i): message(j, i, skeleton, lambda _: 1.0, lambda i, j: potentials[j, i])
        for j, i in potentials
    }


trees = st.lists(st.integers(0, 100), min_size=1, max_size=14).map(random_tree)


@settings(max_examples=40, deadline=None)
@given(trees, st.integers(0, 1000))
def test_messages_equal_brute_force_on_random_trees(skeleton, seed):
    layer, states = layer_and_states(skeleton, seed)
    found = tree_messages(layer.local_potentials(states), layer.schedule)
    expected = brute_force(layer, states, skeleton)
    schedule = layer.schedule
    for index, (j, i) in enumerate(zip(schedule.sources, schedule.targets, strict=True)):
        torch.testing.assert_close(found[:, index], expected[j, i], atol=1e-10, rtol=1e-10)


@settings(max_examples=20, deadline=None)
@given(trees, st.integers(0, 1000))
def test_logarithms_add_up_over_the_subtree(skeleton, seed):
    layer, states = layer_and_states(skeleton, seed, rule="log")
    local = layer.local_potentials(states)
    found = tree_messages(local, layer.schedule, layer.rule)
    limbs = list(zip(layer.schedule.sources, layer.schedule.targets, strict=True))

    def behind(j, i):
        """The directed limbs in the subtree of j, and the limb from j to i."""
        others = [k for k in skeleton.neighbours[j] if k != i]
        return [limbs.index((j, i)), *(limb for k in others for limb in behind(k, j))]

    for index, limb in enumerate(limbs):
        total = local[:, behind(*limb)].sum(1)
        expected = total - total.mean(-1, keepdim=True)
        torch.testing.assert_close(found[:, index], expected, atol=1e-10, rtol=1e-10)
    flooded = flooding_messages(local, layer.schedule, len(limbs), layer.rule)
    torch.testing.assert_close(flooded, found, atol=1e-10, rtol=1e-10)


def test_logarithms_keep_their_channels_where_products_lose_them():
    """Compares the effective number of channels, of 64, of messages from the trunk."""
    kept = {}
    for rule in RULES:
        layer, states = layer_and_states(POSETRACK15, dim=64, rule=rule)
        messages = layer.messages(states).detach()
        share = messages.square().sum(-1) ** 2 / messages.pow(4).sum(-1)
        kept[rule] = float(share.mean((0, 2)).min())
    assert kept["product"] < 4
    assert kept["log"] > 12


def test_potentials_are_equation_2():
    layer, states = layer_and_states(POSETRACK15)
    found = layer.local_potentials(states)
    limbs = zip(layer.schedule.sources, layer.schedule.targets, strict=True)
    for index, (j, i) in enumerate(limbs):
        psi = states[:, i] @ layer.node.weight.T
        phi = torch.cat([states[:, i], states[:, j]], -1) @ layer.edge.weight.T
        torch.testing.assert_close(found[:, index], psi * phi, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("scale", [0.0, 1e-36, 1e-20, 1.0, 1e20])
def test_messages_have_unit_size_whatever_the_product(scale):
    product = (scale * torch.randn(3, 8)).requires_grad_()
    found = normalised(product)
    expected = 0.0 if scale == 0 else 1.0
    torch.testing.assert_close(found.square().mean(-1), torch.full((3,), expected))
    (gradient,) = torch.autograd.grad(found.sum(), product)
    assert gradient.isfinite().all()


def test_update_is_equation_3():
    layer, states = layer_and_states(POSETRACK15)
    expected = brute_force(layer, states, POSETRACK15)
    updated = layer(states)
    for i, neighbours in enumerate(POSETRACK15.neighbours):
        total = sum(torch.exp(expected[j, i]) for j in neighbours)
        torch.testing.assert_close(
            updated[:, i], torch.log(total) + states[:, i], atol=1e-10, rtol=1e-10
        )


def test_flooding_on_a_tree_is_exact_after_its_longest_path():
    layer, states = layer_and_states(POSETRACK15)
    local = layer.local_potentials(states)
    exact = tree_messages(local, layer.schedule)
    # wrist - elbow - shoulder - head_bottom - hip - knee - ankle
    torch.testing.assert_close(flooding_messages(local, layer.schedule, 6), exact)
    assert not torch.allclose(flooding_messages(local, layer.schedule, 5), exact)


def test_posetrack_tree_has_28_messages_in_6_levels():
    schedule = MessageSchedule.of(POSETRACK15)
    assert len(schedule.sources) == 28
    assert len(schedule.levels) == 6
    assert sorted(sum(schedule.levels, ())) == list(range(28))


def test_far_joints_reach_each_other_through_the_tree():
    layer, states = layer_and_states(POSETRACK15)
    moved = states.clone()
    moved[:, POSETRACK15.index("left_wrist")] += 1
    change = (layer.messages(states) - layer.messages(moved)).abs().amax((0, 2, 3))
    into_ankle = [
        m
        for m, target in enumerate(layer.schedule.targets)
        if target == POSETRACK15.index("right_ankle")
    ]
    assert change[into_ankle].min() > 1e-6


def test_messages_stay_in_their_patch():
    layer, states = layer_and_states(POSETRACK15)
    states.requires_grad_()
    elbow, wrist = (POSETRACK15.index(f"left_{joint}") for joint in ("elbow", "wrist"))
    layer(states)[:, elbow, 1].sum().backward()
    reached = states.grad[:, wrist].abs().amax((0, 2)) > 0
    assert reached.tolist() == [False, True, False]


def test_a_cycle_needs_flooding():
    schedule = MessageSchedule.of(COCO17)
    assert schedule.levels == ()
    with pytest.raises(ValueError, match="tree"):
        tree_messages(torch.ones(1, len(schedule.sources), 1, 4), schedule)
    layer = MarkovOptimizationLayer(8, COCO17, num_iterations=3)
    assert torch.isfinite(layer(torch.randn(1, 17, 2, 8))).all()


def test_starts_as_the_identity_and_keeps_bfloat16():
    layer = MarkovOptimizationLayer(8, POSETRACK15)
    states = torch.randn(2, 15, 3, 8, dtype=torch.bfloat16)
    assert torch.equal(layer(states), states)


def test_finite_for_huge_tiny_and_zero_states():
    layer, states = layer_and_states(POSETRACK15)
    layer = layer.float()
    for scale in (0.0, 1e-6, 1e4):
        x = (states.float() * scale).requires_grad_()
        y = layer(x)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("rule", list(RULES))
def test_a_layer_that_floods_long_enough_is_exact(rule):
    layer, states = layer_and_states(POSETRACK15, rule=rule)
    exact = layer(states)
    layer.num_iterations = 6
    torch.testing.assert_close(layer(states), exact)


def test_messages_are_float32_under_autocast():
    layer, states = layer_and_states(POSETRACK15)
    layer, states = layer.float(), states.float()
    expected = layer(states)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(states)
    torch.testing.assert_close(found, expected)
