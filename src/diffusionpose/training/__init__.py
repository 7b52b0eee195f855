"""Components of a training run, which `diffusionpose.train` puts together (extra: train)."""
