"""Exports made from a complete result: tables, arrays, and formats for motion analysis.

Unlike `formats`, which are written frame by frame, these take a `VideoPoses`. `docs/formats.md`
describes them for users.
"""

from diffusionpose.exports.files import EXPORTS, ExportOptions, StagedExports, check_exports

__all__ = ["EXPORTS", "ExportOptions", "StagedExports", "check_exports"]
