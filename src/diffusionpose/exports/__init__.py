"""Result files that are made of a whole result: tables, arrays, and what motion analysis reads.

Unlike `formats`, which are written frame by frame, these take a `VideoPoses`. `docs/formats.md` describes them for users.
"""

from diffusionpose.exports.files import EXPORTS, ExportOptions, StagedExports, check_exports

__all__ = ["EXPORTS", "ExportOptions", "StagedExports", "check_exports"]
