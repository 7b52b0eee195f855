"""Pose and tracking metrics."""
