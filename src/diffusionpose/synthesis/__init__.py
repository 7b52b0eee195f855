"""Synthetic people: clips of three frames with exact joint annotations, including hidden joints."""
