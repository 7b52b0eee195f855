"""The stem of the hybrid backbone."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from diffusionpose.config import BackboneConfig
from diffusionpose.nn.backbone import HybridBackbone
from diffusionpose.nn.mobilenet import ConvSame, MobileNetV2FPN
from diffusionpose.nn.packed import PackedConv, can_pack


@pytest.mark.parametrize("groups", [1, 2], ids=["dense", "depthwise"])
def test_at_stride_two_an_even_side_is_padded_at_its_end(groups: int):
    conv = ConvSame(2, 2, 3, stride=2, groups=groups).eval()
    x = torch.randn(1, 2, 4, 6)
    padded = torch.zeros(1, 2, 5, 7)
    padded[..., :4, :6] = x
    expected = nn.functional.conv2d(padded, conv.weight, conv.bias, 2, groups=groups)
    assert expected.shape == (1, 2, 2, 3)
    torch.testing.assert_close(conv(x), expected)


def test_the_pyramid_has_strides_4_8_and_16():
    features = MobileNetV2FPN()(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in features] == [(2, 24, 16, 24), (2, 24, 8, 12), (2, 32, 4, 6)]
    assert tuple(x.shape[1] for x in features) == MobileNetV2FPN.channels


def test_a_change_in_the_image_reaches_every_level_where_it_happened():
    torch.manual_seed(0)
    stem = MobileNetV2FPN()
    one = torch.randn(1, 3, 128, 128)
    two = one.clone()
    two[..., 96:112, 32:48] += 3
    for a, b in zip(stem(one), stem(two), strict=True):
        change = (a - b).abs().sum((0, 1))
        stride = 128 // change.shape[0]
        row, column = divmod(int(change.argmax()), change.shape[1])
        assert 80 <= (row + 0.5) * stride < 128
        assert 16 <= (column + 0.5) * stride < 64


def test_a_token_holds_the_features_of_its_own_pixels_at_every_stride():
    backbone = HybridBackbone(
        BackboneConfig(kind="hybrid", hidden_size=32, depth=0, num_heads=2), (64, 48)
    )

    class Marked(nn.Module):
        """A stem whose features are 1 within one token of the 4 x 3 grid, and 0 elsewhere."""

        def forward(self, images):
            levels = []
            for channels, cells in zip(MobileNetV2FPN.channels, (4, 2, 1), strict=True):
                x = torch.zeros(1, channels, 4 * cells, 3 * cells)
                x[..., 2 * cells : 3 * cells, cells : 2 * cells] = 1
                levels.append(x)
            return levels

    backbone.stem = Marked()
    nn.init.zeros_(backbone.position)
    tokens = backbone(torch.zeros(1, 3, 64, 48))[0]
    odd = [i for i in range(12) if not torch.allclose(tokens[i], tokens[0], atol=1e-5)]
    assert odd == [2 * 3 + 1]


def test_gradients_of_strided_depthwise_convolutions_are_those_of_torch():
    conv = ConvSame(6, 6, 3, stride=2, groups=6).double()
    x = torch.randn(2, 6, 8, 10, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(2, 6, 4, 5, dtype=torch.double)
    found = []
    for is_training in (True, False):
        out = conv.train(is_training)(x)
        found.append((out, *torch.autograd.grad(out, (x, conv.weight, conv.bias), upstream)))
    assert "Halving" in type(conv.train()(x).grad_fn).__name__
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_learned_and_moved_weights_are_not_taken_for_the_old_ones():
    torch.manual_seed(0)
    conv, x = ConvSame(16, 16, 3, groups=16, activation="relu6").eval(), torch.randn(1, 16, 8, 8)

    def answers():
        with torch.inference_mode():
            packed = conv(x)
        with torch.no_grad():
            return packed, conv(x)

    before, _ = answers()
    optimizer = torch.optim.SGD(conv.parameters(), lr=1.0)
    conv(x).sum().backward()
    optimizer.step()
    stepped = answers()
    conv.load_state_dict({name: -value for name, value in conv.state_dict().items()})
    loaded = answers()
    conv.weight = nn.Parameter(torch.ones_like(conv.weight))
    replaced = answers()
    for number in range(2, 6):  # as often as not, each where the one before last was
        conv.weight = nn.Parameter(torch.full_like(conv.weight, number))
        torch.testing.assert_close(*answers())
    conv.weight = nn.Parameter(torch.ones_like(conv.weight))
    for earlier, later in pairwise((before, stepped[0], loaded[0], replaced[0])):
        assert not torch.equal(earlier, later)
    for packed, plain in (stepped, loaded, replaced):
        torch.testing.assert_close(packed, plain)
    twin = copy.deepcopy(conv)
    with torch.inference_mode():
        assert torch.equal(twin(x), replaced[0])


_SHAPES = {
    "first": (lambda: ConvSame(3, 56, 3, stride=2, activation="relu6"), (64, 48)),
    "expand": (lambda: ConvSame(32, 192, activation="relu6"), (32, 24)),
    "depthwise": (lambda: ConvSame(336, 336, 3, groups=336, activation="relu6"), (16, 12)),
    "halving": (lambda: ConvSame(192, 192, 3, stride=2, groups=192, activation="relu6"), (32, 24)),
    "project": (lambda: ConvSame(1680, 280), (8, 6)),
    "smooth": (lambda: ConvSame(24, 24, 3, groups=24, bias=False), (64, 48)),
    "pointwise": (lambda: ConvSame(24, 24, activation="relu"), (64, 48)),
    "one pixel": (lambda: ConvSame(24, 24, activation="relu"), (1, 1)),
}


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", _SHAPES)
def test_inference_gives_what_training_sees_and_a_crop_the_same_in_any_company(
    name: str, is_half: bool
):
    torch.manual_seed(0)
    make, size = _SHAPES[name]
    conv = make().eval()
    # Large enough to reach both ends of ReLU6.
    x = (1 if conv.activation == "none" else 8) * torch.randn(5, conv.in_channels, *size)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        with torch.no_grad():
            plain = conv(x)
        with torch.inference_mode():
            together, alone = conv(x), conv(x[3:4])
    assert together.dtype == plain.dtype == (torch.bfloat16 if is_half else torch.float32)
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if is_half else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(together, plain, **tolerance)
    assert torch.equal(together[3:4], alone)
    if conv.activation != "none":
        assert plain.min() == 0
    if conv.activation == "relu6":
        assert plain.max() == 6


def half():
    return torch.autocast("cpu", torch.bfloat16)


def test_weights_are_laid_out_once_and_not_where_gradients_or_other_types_are_wanted(monkeypatch):
    calls = []
    lay_out = PackedConv._lay_out
    monkeypatch.setattr(PackedConv, "_lay_out", lambda *given: calls.append(1) or lay_out(*given))
    conv, x = ConvSame(16, 16).eval(), torch.randn(1, 16, 8, 8)
    with torch.inference_mode():
        if not can_pack(x, conv.weight):
            pytest.skip("no packed convolutions on this machine")
    conv(x)
    with torch.no_grad():
        conv(x)
        with half():
            conv(x)
    with torch.inference_mode(), torch.autocast("cpu", torch.float16):
        assert conv(x).dtype == torch.float16
    with torch.inference_mode():
        assert len(conv(x[:0])) == 0
        copy.deepcopy(conv).double()(x.double())
    assert not calls
    with torch.inference_mode():
        for _ in range(3):
            conv(x)
        conv(x.expand(4, -1, -1, -1))
    assert len(calls) == 1


def test_in_bfloat16_one_map_and_several_keep_a_layout_each(monkeypatch):
    calls = []
    lay_out = PackedConv._lay_out
    monkeypatch.setattr(PackedConv, "_lay_out", lambda *given: calls.append(1) or lay_out(*given))
    conv, x = ConvSame(16, 16, activation="relu").eval(), torch.randn(8, 16, 8, 8)
    with torch.inference_mode(), half():
        if not can_pack(x, conv.weight):
            pytest.skip("no packed convolutions in bfloat16 on this machine")
        for number in (1, 8, 1, 2, 3, 8):
            conv(x[:number])
    assert len(calls) == 2
    conv.weight.data = conv.weight.data.bfloat16()
    with torch.inference_mode(), half():
        conv(x)
        conv(x.bfloat16())
    assert len(calls) == 3


def test_types_in_turns_are_not_taken_for_each_other():
    torch.manual_seed(0)
    conv, x = ConvSame(16, 16).eval(), torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        exact = conv(x)
        with half():
            rounded = conv(x)
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(conv(x), exact)
            with half():
                torch.testing.assert_close(conv(x), rounded)
