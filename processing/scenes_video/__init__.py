"""The embedded data set of clips: moving scenes with captions in six languages; see dataset.py."""

from processing.scenes_video.dataset import load_scenes_video
from processing.scenes_video.planning import ScenesVideoConfig, plan_split

__all__ = ["ScenesVideoConfig", "load_scenes_video", "plan_split"]
