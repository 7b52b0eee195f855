import cv2
import numpy as np
import pytest
import torch

from diffusionpose.nn.heatmaps import (
    crop_to_heatmap,
    decode,
    encode,
    heatmap_to_crop,
    inside,
    soft_argmax,
)

SIZE = (64, 48)


def random_points(number, margin=0.0):
    torch.manual_seed(0)
    limit = torch.tensor([SIZE[1], SIZE[0]]) - 1.0
    return torch.rand(number, 2) * (limit + 2 * margin) - margin


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("sigma", [2.0, 3.0])
def test_decode_undoes_encode_over_10000_joints_border_included(margin, sigma):
    points = random_points(10_000, margin)
    found, scores = decode(encode(points, SIZE, sigma), sigma)
    error = (found - points).norm(dim=-1)
    assert error.max() < 0.1
    assert scores.min() > 0.9
    limit = torch.tensor([SIZE[1], SIZE[0]]) - 1
    is_whole = ((points > 4 * sigma) & (points < limit - 4 * sigma)).all(-1)
    assert error[is_whole].max() < 1e-3
    assert scores[is_whole].min() > 0.94


@pytest.mark.parametrize(
    "corner", [(0.0, 0.0), (47.0, 0.0), (0.0, 63.0), (47.0, 63.0), (-0.4, 63.4)]
)
def test_corners(corner):
    point = torch.tensor([corner])
    found, _ = decode(encode(point, SIZE, 2.0), 2.0)
    assert (found - point).norm() < 0.1


def test_people_together_are_decoded_as_each_alone():
    torch.manual_seed(0)
    maps = torch.rand(5, 15, *SIZE)
    together = decode(maps, 2.0)
    for number, one in enumerate(maps):
        for found, alone in zip(together, decode(one[None], 2.0), strict=True):
            assert torch.equal(found[number], alone[0])


def test_missing_joints_draw_nothing_and_score_nothing():
    maps = encode(torch.tensor([[float("nan"), 3.0], [10.0, 10.0]]), SIZE, 2.0)
    assert maps[0].abs().max() == 0
    _, scores = decode(maps, 2.0)
    assert scores.tolist() == pytest.approx([0.0, 1.0])


def test_inside():
    points = torch.tensor([[0.0, 0.0], [47.4, 63.4], [48.0, 5.0], [5.0, -0.6], [float("nan"), 1.0]])
    assert inside(points, SIZE).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_noisy_maps_are_smoothed_by_half_of_sigma(sigma):
    torch.manual_seed(0)
    maps = torch.zeros(20, *SIZE)
    maps[:, 16:48, 14:34] = torch.rand(20, 32, 20)
    points, scores = decode(maps, sigma)
    for found, score, one in zip(points, scores, maps.numpy(), strict=True):
        smooth = cv2.GaussianBlur(one, (0, 0), sigma / 2)
        y, x = np.unravel_index(smooth.argmax(), smooth.shape)
        assert abs(found[0] - x) <= 1
        assert abs(found[1] - y) <= 1
        # Smoothing reduces a Gaussian of this sigma by a fifth of its height.
        assert score == pytest.approx(min(smooth.max() / 0.8, 1), abs=0.01)


def test_mixed_precision_around_it_changes_nothing():
    maps = encode(random_points(8).float(), SIZE, 2.0)
    points, scores = decode(maps, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        same_points, same_scores = decode(maps, 2.0)
    torch.testing.assert_close(same_points, points, atol=0, rtol=0)
    torch.testing.assert_close(same_scores, scores, atol=0, rtol=0)


def test_most_of_a_broad_map_outweighs_its_highest_pixel():
    broad = 0.5 * encode(torch.tensor([[20.0, 30.0]]), SIZE, 4.0)
    broad[0, 10, 10] = 0.6
    points, _ = decode(broad, 2.0)
    torch.testing.assert_close(points, torch.tensor([[20.0, 30.0]]), atol=0.1, rtol=0)


def test_maps_without_a_peak_stay_on_the_map():
    points, scores = decode(torch.cat([torch.zeros(1, *SIZE), -torch.rand(5, *SIZE)]), 2.0)
    assert inside(points, SIZE).all()
    assert scores.abs().max() == 0


def test_soft_argmax_is_near_the_centre_and_has_gradients():
    points = random_points(200)
    interior = points[(points > 6).all(-1) & (points[:, 0] < 41) & (points[:, 1] < 57)]
    maps = encode(interior, SIZE, 2.0).requires_grad_()
    centre = soft_argmax(maps)
    assert (centre - interior).norm(dim=-1).max() < 0.4
    centre.sum().backward()
    assert maps.grad.abs().amax((-1, -2)).min() > 0


def test_crop_and_heatmap_pixels():
    corner = torch.tensor([[-0.5, -0.5], [191.5, 255.5]])
    torch.testing.assert_close(crop_to_heatmap(corner), torch.tensor([[-0.5, -0.5], [47.5, 63.5]]))
    torch.testing.assert_close(heatmap_to_crop(crop_to_heatmap(corner)), corner)


def test_the_centre_does_not_depend_on_the_height():
    maps = encode(torch.tensor([[20.3, 30.7]]), SIZE, 2.0)
    torch.testing.assert_close(soft_argmax(0.1 * maps), soft_argmax(maps))


def test_what_is_below_zero_counts_as_zero():
    torch.manual_seed(0)
    maps = torch.randn(20, *SIZE)
    for found, expected in zip(decode(maps, 2.0), decode(maps.clamp_min(0), 2.0), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_border_itself_is_on_the_map():
    assert inside(torch.tensor([[-0.5, -0.5], [47.5, 63.5]]), SIZE).all()


def test_a_peak_is_moved_by_a_pixel_at_most():
    found, _ = decode(encode(torch.tensor([[20.0, -3.0]]), SIZE, 2.0), 2.0)
    torch.testing.assert_close(found, torch.tensor([[20.0, -1.0]]), atol=1e-3, rtol=0)
