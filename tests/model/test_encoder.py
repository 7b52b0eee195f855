import pytest
import torch

from diffusionpose.config import BackboneConfig, EncoderConfig, ModelConfig
from diffusionpose.model.encoder import SpatioTemporalBlock, SpatioTemporalFeatureEncoder

DIM, FRAMES, TOKENS, JOINTS = 32, 3, 10, 15


@pytest.fixture
def block():
    torch.manual_seed(0)
    return SpatioTemporalBlock(DIM, EncoderConfig(num_heads=2)).double().eval()


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    config = ModelConfig(
        backbone=BackboneConfig(hidden_size=DIM, num_heads=2),
        encoder=EncoderConfig(depth=1, num_heads=2),
    )
    return SpatioTemporalFeatureEncoder(config).double().eval()


def tokens():
    return torch.randn(2, FRAMES, TOKENS, DIM, dtype=torch.float64)


def reach(layer, x, frame, token):
    """Return which (frame, token) outputs change with one input token."""
    changed = x.clone()
    changed[:, frame, token] += 1
    with torch.inference_mode():
        return (layer(changed) - layer(x)).abs().amax((0, 3)) > 1e-9


def test_spatial_mamba_keeps_frames_apart(block):
    changed = reach(block.spatial, tokens(), 1, 4)
    assert not changed[[0, 2]].any()
    assert not changed[1, :4].any()
    assert changed[1, 4:].all()


def test_full_sequence_mamba_carries_the_past_into_later_frames(block):
    changed = reach(block.full_sequence, tokens(), 1, 4)
    assert not changed[0].any()
    assert not changed[1, :4].any()
    assert changed[1, 4:].all()
    assert changed[2].any()


def test_temporal_attention_mixes_frames_of_one_position_only(block):
    changed = reach(block.temporal, tokens(), 1, 4)
    assert changed[:, 4].all()
    assert not changed[:, torch.arange(TOKENS) != 4].any()


def test_block_is_its_formula(block):
    x = tokens()
    with torch.inference_mode():
        y = x + block.spatial(block.norm_spatial(x))
        normed = block.norm_temporal(y)
        a, b = block.full_sequence(normed), block.temporal(normed)
        gate = torch.sigmoid(torch.cat([a, b], -1) @ block.gate.weight.T + block.gate.bias)
        y = y + gate * a + (1 - gate) * b
        torch.testing.assert_close(block(x), y + block.mlp(block.norm_mlp(y)))


def test_keypoint_tokens_stand_after_the_image_tokens_of_their_frame(encoder):
    seen = {}
    encoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.update(tokens=args[0]))
    features = tokens()
    with torch.inference_mode():
        encoder(features)
    assert seen["tokens"].shape == (2, FRAMES, TOKENS + JOINTS, DIM)
    expected = torch.cat([features, encoder.keypoint_tokens.expand(2, -1, -1, -1)], 2)
    torch.testing.assert_close(seen["tokens"], expected + encoder.frame_embedding)


def test_feature_conditions_see_all_frames_position_conditions_are_the_key_frames_tokens(encoder):
    encoder.blocks = torch.nn.ModuleList()
    features = tokens()
    with torch.inference_mode():
        conditions = encoder(features)
        key = encoder.keypoint_tokens[1] + encoder.frame_embedding[1]
        torch.testing.assert_close(conditions.position[0], encoder.norm_position(key))
        assert conditions.features.shape == (2, TOKENS, DIM)
        for frame in range(FRAMES):
            other = features.clone()
            other[:, frame, 3] += 1
            changed = (encoder(other).features - conditions.features).abs().amax((0, 2)) > 1e-9
            assert changed.tolist() == [token == 3 for token in range(TOKENS)]
