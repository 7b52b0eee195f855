import pytest
import torch

from diffusionpose.config import BackboneConfig, DecoderConfig, ModelConfig
from diffusionpose.model.baselines import LookupDenoiser
from diffusionpose.model.decoder import FeatureKernels, PoseDenoisingDecoder
from diffusionpose.model.encoder import Conditions
from diffusionpose.nn.attention import FeedForward
from diffusionpose.nn.markov import MarkovOptimizationLayer

DIM = 32


def config(**decoder):
    return ModelConfig(
        backbone=BackboneConfig(hidden_size=DIM, num_heads=2),
        decoder=DecoderConfig(**{"depth": 1, "num_heads": 2} | decoder),
    )


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    found = PoseDenoisingDecoder(config()).double().eval()
    # Random instead of zero initial weights, so that every path contributes.
    for name, parameter in found.named_parameters():
        if "modulation" in name or "gate" in name or "head" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return found


def conditions(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = (torch.randn(2, n, DIM, generator=generator, dtype=torch.float64) for n in (15, 192))
    return Conditions(*draw)


def states():
    return torch.randn(
        2, 15, 12, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def noisy():
    return torch.randn(
        2, 15, 64, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )


def test_layers_come_in_the_papers_order(decoder):
    block, called = decoder.blocks[0], []
    for name in ("location", "markov", "cross", "mlp"):
        layer = getattr(block, name)
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    time = decoder.embed_time(torch.tensor([5, 6]))
    with torch.inference_mode():
        block(states(), time, conditions())
    assert called == ["location", "markov", "cross", "mlp"]
    assert isinstance(block.markov, MarkovOptimizationLayer)
    assert isinstance(block.mlp, FeedForward)


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"position_conditions": False, "markov": False}, {"cross", "mlp"}),
        ({"markov": False}, {"location", "cross", "mlp"}),
        ({}, {"location", "markov", "cross", "mlp"}),
    ],
)
def test_rows_b_to_d_of_table_7_add_one_layer_each(settings, kept):
    block = PoseDenoisingDecoder(config(**settings)).blocks[0]
    there = {
        name for name in ("location", "markov", "cross", "mlp") if getattr(block, name) is not None
    }
    assert there == kept


def test_patches_of_a_joint_reach_only_that_joints_tokens(decoder):
    seen = []
    decoder.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x_t = noisy()
    other = x_t.clone()
    other[:, 4, 16:32, 32:48] += 1  # second row of patches, third column
    t = torch.tensor([999, 999])
    with torch.inference_mode():
        decoder(x_t, t, conditions())
        decoder(other, t, conditions())
    changed = (seen[0] - seen[1]).abs().amax((0, 3)) > 1e-9
    assert changed.nonzero().tolist() == [[4, 5]]


def test_head_puts_patches_back_where_they_were_cut(decoder):
    torch.nn.init.dirac_(decoder.smooth.weight)
    torch.nn.init.zeros_(decoder.smooth.bias)
    decoder.blocks = torch.nn.ModuleList()
    decoder.norm = torch.nn.Identity()
    decoder.embed_time = torch.nn.Identity()
    decoder.embed = torch.nn.Linear(256, DIM).double()
    decoder.head = torch.nn.Linear(DIM, 256).double()
    decoder.embed.weight.data = torch.eye(DIM, 256, dtype=torch.float64)
    decoder.head.weight.data = torch.eye(256, DIM, dtype=torch.float64)
    for part in (decoder.embed, decoder.head):
        torch.nn.init.zeros_(part.bias)
    torch.nn.init.zeros_(decoder.joint_embedding)
    decoder.patch_position.zero_()
    x_t = noisy()
    with torch.inference_mode():
        out = decoder(x_t, torch.tensor([1, 1]), conditions())
    # An identity with DIM channels keeps the first DIM pixels, i.e. two rows, of each 16 x 16
    # patch.
    for row in range(0, 64, 16):
        torch.testing.assert_close(out[:, :, row : row + 2], x_t[:, :, row : row + 2])


def test_position_conditions_guide_the_self_attention(decoder):
    layer = decoder.blocks[0].location
    time = decoder.embed_time(torch.tensor([5, 6]))
    given = conditions().position
    other = given.clone()
    other[:, 7] += 1
    with torch.inference_mode():
        change = (layer(states(), time, given) - layer(states(), time, other)).abs().amax((0, 2, 3))
        silent = layer.guide.weight.clone()
        layer.guide.weight.zero_()
        assert torch.equal(layer(states(), time, given), layer(states(), time, other))
        layer.guide.weight.copy_(silent)
    # The queries of joint 7 change and, through its keys, the attention of all joints to it.
    assert change.min() > 1e-9
    assert change.argmax() == 7


def test_feature_conditions_enter_through_the_cross_attention(decoder):
    block = decoder.blocks[0]
    time = decoder.embed_time(torch.tensor([5, 6]))
    given = conditions()
    other = given._replace(features=given.features + 1)
    with torch.inference_mode():
        assert not torch.allclose(block(states(), time, given), block(states(), time, other))
        block.cross.attention.proj.weight.zero_()
        torch.testing.assert_close(block(states(), time, given), block(states(), time, other))


def test_time_modulates_the_two_attention_layers_only(decoder):
    block = decoder.blocks[0]
    early, late = (decoder.embed_time(torch.tensor([t, t])) for t in (3, 900))
    with torch.inference_mode():
        for layer, given in (
            (block.location, conditions().position),
            (block.cross, conditions().features),
        ):
            assert not torch.allclose(layer(states(), early, given), layer(states(), late, given))
        for layer in (block.location, block.cross):
            layer.modulation.project.weight.zero_()
        a, b = (block(states(), time, conditions()) for time in (early, late))
        assert torch.equal(a, b)


def test_training_starts_from_nearly_empty_heatmaps():
    torch.manual_seed(0)
    fresh = PoseDenoisingDecoder(config(feature_kernels=True)).double()
    with torch.inference_mode():
        out = fresh(noisy(), torch.tensor([999, 1]), conditions())
    assert out.abs().max() < 0.1


def test_kernels_look_for_their_joint_in_their_own_patch():
    torch.manual_seed(0)
    kernels = FeatureKernels(config()).double().eval()
    torch.nn.init.normal_(kernels.kernel.weight)
    given, features = states(), conditions().features
    with torch.inference_mode():
        found = kernels(given, features)
        maps, weights = kernels.upsample(features), kernels.kernel(given)
    # Third patch of the second row: rows 16 to 31, columns 32 to 47.
    expected = torch.einsum("bjc,bchw->bjhw", weights[:, :, 5], maps[:, :, 16:32, 32:48])
    torch.testing.assert_close(found[:, :, 5], expected.flatten(2))


def test_at_the_start_a_state_tells_joints_apart_whatever_the_noise():
    torch.manual_seed(0)
    fresh, seen = PoseDenoisingDecoder(config()).double(), []
    fresh.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.inference_mode():
        for x_t in (noisy(), noisy().flip(0)):
            fresh(x_t, torch.tensor([999, 999]), conditions())
    between_noises = (seen[0] - seen[1]).square().mean()
    between_joints = (seen[0][:, 3] - seen[0][:, 4]).square().mean()
    assert between_joints > 10 * between_noises


def test_lookup_reads_features_where_the_noisy_map_is_high():
    torch.manual_seed(0)
    channels = 48
    lookup = LookupDenoiser(config(kind="lookup"), channels).eval()
    torch.nn.init.constant_(lookup.sharpness.bias, 50.0)
    found = []
    lookup.mix.register_forward_hook(lambda _, args, out: found.append(args[0][..., :channels]))
    given = Conditions(*(part.float() for part in conditions()))
    x_t = torch.zeros(2, 15, 64, 48)
    x_t[:, :, 10, 20] = 5.0
    features = lookup.upsample(given.features)
    with torch.inference_mode():
        lookup(x_t, torch.tensor([5, 5]), given)
    for joint in (0, 14):
        torch.testing.assert_close(found[0][:, joint], features[:, :, 10, 20], atol=1e-3, rtol=1e-3)
