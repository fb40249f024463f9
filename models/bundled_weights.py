"""The weights that come with the repository, found wherever a command is run from."""

from __future__ import annotations

from pathlib import Path

TINY_PIPELINE = Path(__file__).resolve().parent / "weights" / "tiny"
TINY_AUTOENCODER = TINY_PIPELINE / "autoencoder"
TINY_LALRM = TINY_PIPELINE / "lalrm"
TINY_VIDEO_BASE = TINY_PIPELINE / "video_base"
