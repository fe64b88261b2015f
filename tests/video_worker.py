"""What the processes of tests/test_video_workers.py do: read clips in the workers of data loaders."""

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from processing.files import write_json_atomic
from processing.video_frames_leccr import FrameSampling, sample_frames
from tests.clips import read_numbers


class Clips(Dataset[list[int]]):
    """The numbers of the frames that are read of each clip; every other clip is given as bytes."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> list[int]:
        path = Path(self._paths[index])
        video: Any = {"bytes": path.read_bytes(), "path": None} if index % 2 else path
        return read_numbers(sample_frames(video, FrameSampling(4), draw=index))


def read_clips(folder: Path, paths: list[str], num_workers: int, method: str, epochs: int) -> None:
    """Read all clips in workers, some also in the process that starts them, and write down what was seen."""
    import torch.distributed as dist

    clips = Clips(paths)
    # What a library keeps of this, its locks above all, is copied into workers that are forked.
    own = [clips[index] for index in range(3)]
    loader: DataLoader[list[int]] = DataLoader(
        clips, batch_size=4, num_workers=num_workers, multiprocessing_context=method, collate_fn=list
    )
    seen = []
    for _ in range(epochs):
        seen.append([numbers for batch in loader for numbers in batch])
        own.append(clips[3])
    rank = 0
    if dist.is_initialized():
        rank = dist.get_rank()
        dist.barrier()
    write_json_atomic(folder / f"seen-{rank}.json", {"seen": seen, "own": own})
