"""Initialise a denoising decoder from a trained heatmap head; writes weights for `init_from`.

python tools/start_decoder.py HEAD_MODEL configs/tiny-7-whole.yaml DATA start.safetensors

HEAD_MODEL is a model with a heatmap head, such as runs/tiny-6-backbone/model. The recipe defines
the model to train and its data. Backbone and upsampler are copied from HEAD_MODEL. A kernel per
joint on the upsampled map and the decoder's last convolution are fitted to the head's heatmaps;
then the layer from joint states to kernels is solved so that the states of the untrained decoder
give these kernels. Results are in docs/decisions/015-decoder-from-head.md.
"""

import math
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from diffusionpose.data.clips import ClipDataset
from diffusionpose.model.baselines import HeatmapHead
from diffusionpose.model.decoder import PoseDenoisingDecoder
from diffusionpose.model.model import DiffusionPose
from diffusionpose.recipe import TrainConfig, read_recipe
from diffusionpose.training.sources import load_source

PEOPLE, BATCH, STEPS, LEARNING_RATE = 384, 24, 600, 1e-2
RIDGE = 1e-4
"""Regularisation, as similar states of different joints would give large weights."""


def take_over(model: DiffusionPose, head: DiffusionPose) -> None:
    """Copy backbone and upsampler."""
    tensors = {
        name.replace("decoder.upsample", "decoder.kernels.upsample"): value
        for name, value in head.state_dict().items()
        if name.startswith(("backbone.", "decoder.upsample"))
    }
    unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
    assert not unknown, unknown


def backbone_features(model: DiffusionPose, recipe: TrainConfig) -> Tensor:
    """Return (people, 1, tokens, dim) features of random training people, without augmentation."""
    records = [
        record
        for source in recipe.train
        for record in load_source(source, model.config.skeleton_graph)
    ]
    some = torch.randperm(len(records))[:PEOPLE].tolist()
    people = Subset(ClipDataset(records, model.config), some)
    return torch.cat(
        [model.extract(batch["images"]) for batch in DataLoader(people, batch_size=BATCH)]
    )


def fit_kernels(maps: Tensor, targets: Tensor, head: HeatmapHead) -> tuple[Tensor, Tensor, Tensor]:
    """Fit kernels (joints, channels) and a 3 x 3 convolution over joints, from maps to targets.

    Returns:
        The kernels, and weight and bias of the convolution.
    """
    joints = targets.shape[1]
    kernels = head.out.weight.detach().mean((2, 3)) * 3
    weight = torch.zeros(joints, joints, 3, 3)
    weight[range(joints), range(joints), 1, 1] = 1
    assert head.out.bias is not None
    fitted = [part.clone().requires_grad_() for part in (kernels, weight, head.out.bias.detach())]
    optimizer = torch.optim.Adam(fitted)
    loss = targets.var()
    with torch.enable_grad():
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
            some = torch.randint(len(maps), (BATCH,))
            found = torch.einsum("jc,bchw->bjhw", fitted[0], maps[some])
            loss = F.mse_loss(F.conv2d(found, fitted[1], fitted[2], padding=1), targets[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    print(f"unexplained variance of the head: {loss.item() / targets.var().item():.4f}")
    kernels, weight, bias = (part.detach() for part in fitted)
    return kernels, weight, bias


def states_of(model: DiffusionPose, features: Tensor) -> Tensor:
    """Return (joints, dim) final decoder states, averaged over people and patches."""
    found: list[Tensor] = []
    decoder = model.decoder
    assert isinstance(decoder, PoseDenoisingDecoder)

    def keep(_: nn.Module, __: object, states: Tensor) -> None:
        found.append(states)

    hook = decoder.norm.register_forward_hook(keep)
    model.generate(model.encode(features), torch.randn(len(features), *model.noise_shape))
    hook.remove()
    return found[0].mean((0, 2))


def make_kernels_of(states: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Solve for the minimum-norm linear layer (weight, bias) from joint states to kernels."""
    state, kernel = states.mean(0), kernels.mean(0)
    own = states - state
    alike = own @ own.T
    alike += RIDGE * alike.diagonal().mean() * torch.eye(len(own))
    weight = torch.linalg.solve(alike, kernels - kernel).T @ own
    return weight, kernel - weight @ state


@torch.no_grad()
def main(
    source: str,
    recipe_file: Annotated[Path, typer.Argument(exists=True)],
    data: Annotated[Path, typer.Argument(exists=True)],
    target: Path,
) -> None:
    torch.manual_seed(0)
    recipe = read_recipe(recipe_file, (), data)
    model, single = DiffusionPose(recipe.model).eval(), DiffusionPose.from_pretrained(source).eval()
    take_over(model, single)
    decoder, head = model.decoder, single.decoder
    assert isinstance(head, HeatmapHead)
    assert isinstance(decoder, PoseDenoisingDecoder)
    assert decoder.kernels is not None
    features = backbone_features(single, recipe)
    conditions = [single.encode(some) for some in features.split(BATCH)]
    maps = torch.cat([head.upsample(one.features) for one in conditions])
    kernels, weight, bias = fit_kernels(maps, head.out(maps), head)
    clips = features[: 2 * BATCH].expand(-1, recipe.model.num_frames, -1, -1)
    layer, offset = make_kernels_of(states_of(model, clips), kernels)
    decoder.kernels.kernel.weight.copy_(layer)
    decoder.kernels.kernel.bias.copy_(offset)
    decoder.smooth.weight.copy_(weight)
    assert decoder.smooth.bias is not None
    decoder.smooth.bias.copy_(bias)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, target)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
