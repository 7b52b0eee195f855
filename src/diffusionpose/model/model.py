"""DiffusionPose, the network: three crops and noise in, heatmaps out (paper, Fig. 2).

| here | paper |
|---|---|
| `images` | the cropped segment {I_{t-1}, I_t, I_{t+1}} of one person |
| `features` | {F_{t-1}, F_t, F_{t+1}}, 3 x N x D |
| `conditions.position`, `conditions.features` | C_p (J x D), C_f (N x D) |
| `x_t`, `heatmaps` | noisy heatmaps, H_t |
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from diffusionpose.config import ModelConfig
from diffusionpose.errors import CheckpointError
from diffusionpose.model import checkpoint
from diffusionpose.model.baselines import HeatmapHead, LookupDenoiser, UNetDenoiser
from diffusionpose.model.decoder import PoseDenoisingDecoder
from diffusionpose.model.encoder import Conditions, make_encoder
from diffusionpose.nn import diffusion, vitpose_weights
from diffusionpose.nn.backbone import ViTBackbone, grid_of, make_backbone, normalise
from diffusionpose.nn.markov import MarkovOptimizationLayer

_DECODERS = {
    "hcdb": PoseDenoisingDecoder,
    "unet": UNetDenoiser,
    "lookup": LookupDenoiser,
    "head": HeatmapHead,
}


class DiffusionPose(nn.Module):
    """Backbone, encoder and decoder of one configuration, randomly initialised.

    Args:
        config: Every size and every row of Tables 5 to 7 is one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config.backbone, config.image_size)
        self.encoder = make_encoder(config)
        self.decoder = _DECODERS[config.decoder.kind](config)

    @cached_property
    def scheduler(self) -> "diffusion.DDIMScheduler":
        """The schedule of training."""
        return diffusion.make_scheduler(self.config.diffusion.num_train_timesteps)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> "DiffusionPose":
        """A model with its weights, in evaluation mode on the CPU.

        Args:
            name_or_path: A bundled name, a folder, or a Hugging Face repository `owner/name`; only the last downloads.

        Raises:
            CheckpointError: If anything about it is missing, corrupted or does not fit together.
        """
        config, tensors = checkpoint.load(name_or_path)
        model = cls(config)
        checkpoint.check_fit(model.state_dict(), tensors, str(name_or_path))
        model.load_state_dict(tensors)
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, card: str, dtype: torch.dtype = torch.float32
    ) -> Path:
        """Writes `config.json`, `model.safetensors` and the model card; see `checkpoint.save`."""
        return checkpoint.save(folder, self.config, self.state_dict(), card, dtype)

    def load_matching(self, path: Path, start: str = "") -> list[str]:
        """Copies what fits from a model folder or safetensors file, for a run that starts from other weights.

        Args:
            path: Folder or file.
            start: Of the names of the tensors to copy: `backbone.` leaves the rest as it is.

        Returns:
            Names of the tensors that were copied.

        Raises:
            CheckpointError: If the file cannot be read, or nothing in it fits.
        """
        own = self.state_dict()
        tensors = checkpoint.read_weights(path / checkpoint.WEIGHTS if path.is_dir() else path)
        fitting = {
            k: v
            for k, v in tensors.items()
            if k in own and own[k].shape == v.shape and k.startswith(start)
        }
        if not fitting:
            raise CheckpointError(f"{path}: none of its {len(tensors)} tensors fits this model")
        self.load_state_dict(fitting, strict=False)
        return sorted(fitting)

    def load_backbone(self, path: Path) -> None:
        """Pretrained ViTPose weights for the backbone; see `vitpose_weights` for the layouts.

        Raises:
            CheckpointError: If the file is unreadable, of another kind, or of another size than the configuration.
        """
        if not isinstance(self.backbone, ViTBackbone):
            raise CheckpointError(f"{path}: ViTPose weights need backbone.kind 'vit'")
        tensors = checkpoint.read_backbone(path)
        grid = grid_of(self.config.backbone, self.config.image_size)
        state = vitpose_weights.convert(tensors, grid)
        checkpoint.check_fit(self.backbone.vit.state_dict(), state, str(path))
        self.backbone.vit.load_state_dict(state)

    def hold_bfloat16(self) -> None:
        """Keeps in bfloat16 the weights that autocast casts to it at every call: the same answers under it, sooner.

        From then on the model runs under autocast to bfloat16 only. What computes in float32 there keeps its weights: norms,
        scans, and Markov layers, which switch autocast off.
        """
        in_float32 = {
            id(layer)
            for part in self.modules()
            if isinstance(part, MarkovOptimizationLayer)
            for layer in part.modules()
        }
        # Weights made in inference mode could not be packed (`nn.packed`).
        with torch.inference_mode(False):
            for layer in self.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d) and id(layer) not in in_float32:
                    layer.weight.data = layer.weight.data.bfloat16()

    @property
    def num_joints(self) -> int:
        """Joints of the skeleton, J."""
        return self.config.skeleton_graph.num_joints

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(joints, height, width) of one person's x_T."""
        return (self.num_joints, *self.config.heatmap_size)

    def extract(
        self, images: Shaped[Tensor, "batch frames 3 image_height image_width"]
    ) -> Float[Tensor, "batch frames tokens dim"]:
        """Backbone features of RGB crops in [0, 255]; a frame's features do not depend on its neighbours."""
        height, width = self.config.image_size
        _check_shape("images", images, (..., ..., 3, height, width))
        flat = normalise(rearrange(images, "b f c h w -> (b f) c h w"))
        flat = flat.contiguous(memory_format=torch.channels_last)
        return rearrange(self.backbone(flat), "(b f) n d -> b f n d", b=images.shape[0])

    def encode(self, features: Float[Tensor, "batch frames tokens dim"]) -> Conditions:
        """Spatio-Temporal Feature Encoder: position and feature conditions."""
        _check_shape("features", features, (..., self.config.num_frames, ..., ...))
        return self.encoder(features)

    def denoise(
        self,
        x_t: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
        conditions: Conditions,
    ) -> Float[Tensor, "batch joints height width"]:
        """One pass of the denoiser: heatmaps (x_0 before scaling) from noisy ones."""
        # Others would be broadcast.
        batch = conditions.features.shape[0]
        _check_shape("x_t", x_t, (batch, *self.noise_shape))
        _check_shape("t", t, (batch,))
        return self.decoder(x_t, t, conditions)

    def forward(
        self,
        images: Shaped[Tensor, "batch frames 3 image_height image_width"],
        x_t: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch joints height width"]:
        """Heatmaps of the key frame from crops and noisy heatmaps at step t."""
        return self.denoise(x_t, t, self.encode(self.extract(images)))

    def corrupt(
        self,
        heatmaps: Float[Tensor, "batch joints height width"],
        noise: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch joints height width"]:
        """The forward process on target heatmaps: x_t at step t."""
        x_0 = diffusion.to_signal(heatmaps, self.config.diffusion.signal_scale)
        return diffusion.add_noise(self.scheduler, x_0, noise, t)

    def generate(
        self,
        conditions: Conditions,
        noise: Float[Tensor, "batch joints height width"],
        num_inference_steps: int = 1,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> Float[Tensor, "batch joints height width"]:
        """Inference: DDIM from noise to heatmaps; `on_step` is shown the noise and what every step makes of it, as heatmaps."""
        scale, most = self.config.diffusion.signal_scale, self.config.diffusion.num_train_timesteps

        def predict_x_0(x_t: Tensor, t: Tensor) -> Tensor:
            # float32: where a heatmap is nearly 0, half precision cannot hold it beside the offset of the signal.
            return diffusion.to_signal(self.denoise(x_t, t, conditions).float(), scale)

        def show(x_t: Tensor) -> None:
            if on_step is not None:
                on_step(diffusion.to_heatmaps(x_t, scale))

        x_0 = diffusion.sample(most, predict_x_0, noise, num_inference_steps, show)
        return diffusion.to_heatmaps(x_0, scale)


def _check_shape(name: str, tensor: Tensor, wanted: tuple[Any, ...]) -> None:
    """Says what is wrong where torch would say it late, or not at all; any number goes for an ellipsis.

    Raises:
        ValueError: If the shape is another.
    """
    if torch.compiler.is_compiling():
        return  # sizes are symbols there
    found = tensor.shape
    if len(found) != len(wanted) or any(
        want is not ... and size != want for size, want in zip(found, wanted, strict=True)
    ):
        text = ", ".join("any" if want is ... else str(want) for want in wanted)
        raise ValueError(f"{name} is {tuple(found)}, not ({text})")
