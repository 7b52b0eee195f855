"""Synthetic people: clips of three frames whose joints are known exactly, hidden ones too."""
