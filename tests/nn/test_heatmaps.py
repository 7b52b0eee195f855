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
    found, scores = decode(encode(points, SIZE, sigma))
    assert (found - points).norm(dim=-1).max() < 0.1
    assert scores.min() > 0.9


@pytest.mark.parametrize(
    "corner", [(0.0, 0.0), (47.0, 0.0), (0.0, 63.0), (47.0, 63.0), (-0.4, 63.4)]
)
def test_corners(corner):
    point = torch.tensor([corner])
    found, _ = decode(encode(point, SIZE, 2.0))
    assert (found - point).norm() < 0.1


def test_missing_joints_draw_nothing_and_score_nothing():
    maps = encode(torch.tensor([[float("nan"), 3.0], [10.0, 10.0]]), SIZE, 2.0)
    assert maps[0].abs().max() == 0
    _, scores = decode(maps)
    assert scores.tolist() == pytest.approx([0.0, 1.0])


def test_inside():
    points = torch.tensor([[0.0, 0.0], [47.4, 63.4], [48.0, 5.0], [5.0, -0.6], [float("nan"), 1.0]])
    assert inside(points, SIZE).tolist() == [True, True, False, False, False]


def test_flat_and_noisy_maps_stay_within_a_pixel_of_the_peak():
    torch.manual_seed(0)
    maps = torch.cat([torch.zeros(1, *SIZE), torch.rand(50, *SIZE), -torch.rand(5, *SIZE)])
    points, scores = decode(maps)
    index = maps.flatten(1).argmax(1)
    peak = torch.stack([index % SIZE[1], index // SIZE[1]], -1)
    assert (points - peak).abs().max() <= 1
    assert (scores >= 0).all()


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
