"""The parts of a training run; `diffusionpose.train` puts them together (extra: train)."""
