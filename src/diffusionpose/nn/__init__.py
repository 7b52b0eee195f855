"""Layers and numerics: tensors, not people."""
