"""The offline report: one HTML file with the video, its poses, and a look inside the model."""

from diffusionpose.report.insight import Insight
from diffusionpose.report.make import compose_report, make_report

__all__ = ["Insight", "compose_report", "make_report"]
