"""Offline report: one HTML file with video, poses, and the model's heatmaps and denoising."""

from diffusionpose.report.insight import Insight
from diffusionpose.report.make import compose_report, make_report

__all__ = ["Insight", "compose_report", "make_report"]
