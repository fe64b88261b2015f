"""The embedded data set: procedural pictures with captions in six languages; see dataset.py."""

from processing.scenes.dataset import SPLITS, TARGET_LANGUAGES, ScenesConfig, load_scenes, plan_split

__all__ = ["SPLITS", "TARGET_LANGUAGES", "ScenesConfig", "load_scenes", "plan_split"]
