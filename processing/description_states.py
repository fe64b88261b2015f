"""A folder of token states of descriptions: computed once by a frozen encoder, read from disk in each step.

`store.json` tells of which encoder the states are; each `states-*.safetensors` holds those of some descriptions, one
after the other without padding. A description is found by its text, so that one whose text has changed is absent and
not wrong. Files are whole or absent, and any number of processes may add some: what two of them add is the same.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from processing.files import atomic_write, write_json_atomic
from processing.job_shards import list_differences

StatesDtype = Literal["float16", "int8"]
HEADER_FILE = "store.json"
COMMAND = "leccr encode_descriptions --model MODEL --dataset DATASET --out {folder}"
_DTYPES = {"float16": "F16", "int8": "I8"}
_LARGEST = float(np.finfo(np.float16).max)


class DescriptionStates:
    """Token states by description; opened before or after a fork, in any number of processes.

    Args:
        folder: written by `leccr encode_descriptions` or by a training run.
        encoder: identity of the encoder whose states are asked for; None takes those of any encoder.

    Attributes:
        width: of a token state.
        dtype: "float16" or "int8", as they lie on the disk; they are read as float16.

    Raises:
        ValueError: the folder is no store, holds the states of another encoder, or has a damaged file.
    """

    def __init__(self, folder: str | Path, *, encoder: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        header = _read_header(self.folder)
        self.encoder: dict[str, Any] = header["encoder"]
        self.width: int = header["width"]
        self.dtype: StatesDtype = header["dtype"]
        if encoder is not None:
            _check_encoder(self.folder, self.encoder, encoder)
        self._files: dict[int, Any] = {}
        self.reload()

    @classmethod
    def create(
        cls, folder: str | Path, *, encoder: Mapping[str, Any], width: int, dtype: StatesDtype | None = None
    ) -> "DescriptionStates":
        """Open a store, or start one where there is none.

        Args:
            folder: absent, empty, or a store of this encoder.
            encoder: its identity.
            width: of its states.
            dtype: None takes the type of the store that is there; float16 for a new one.

        Raises:
            ValueError: as the constructor, or the states there have another type, or the folder holds something else.
        """
        path = Path(folder)
        if not (path / HEADER_FILE).is_file():
            # Another process may be starting the same store.
            strangers = sorted(file.name for file in path.glob("[!.]*") if file.name != HEADER_FILE)
            if strangers:
                raise ValueError(f"{folder} holds files and no {HEADER_FILE} (first: {strangers[:3]}); name another.")
            header = {"encoder": dict(encoder), "width": width, "dtype": dtype or "float16"}
            write_json_atomic(path / HEADER_FILE, header)
        store = cls(path, encoder=encoder)
        if dtype not in (None, store.dtype):
            raise ValueError(
                f"{folder} holds {store.dtype} states, got {dtype}; ask for those, or name another folder."
            )
        return store

    def reload(self) -> None:
        """See what other processes have added."""
        self._files.clear()
        self._paths = sorted(self.folder.glob("states-*.safetensors"))
        parts = [_read_contents(path, self.dtype, self.width) for path in self._paths]
        keys = np.concatenate([np.zeros((0, 2), np.uint64), *(keys for keys, _ in parts)])
        ends = [np.concatenate([[0], ends]) for _, ends in parts]
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        self._keys = keys[order]
        sizes = [len(keys) for keys, _ in parts]
        self._file_of = np.repeat(np.arange(len(parts)), sizes)[order]
        self._starts, self._ends = (
            np.concatenate([np.zeros(0, np.int64), *(part[piece] for part in ends)]).astype(np.int64)[order]
            for piece in (slice(None, -1), slice(1, None))
        )

    def __len__(self) -> int:
        """Number of descriptions; one that two processes added counts twice."""
        return len(self._keys)

    def __contains__(self, description: str) -> bool:
        return self._find(description) is not None

    def missing(self, descriptions: Iterable[str | None]) -> list[str]:
        """The descriptions whose states have to be computed, each once; None and blank ones have none."""
        wanted = dict.fromkeys(text for text in descriptions if text and text.strip())
        return [text for text in wanted if text not in self]

    def read(self, description: str | None, *, name: str = "") -> Tensor:
        """The states of one description.

        Args:
            description: None or a blank text has no states.
            name: of its item, for the message.

        Returns:
            (length, width) float16.

        Raises:
            ValueError: its states are not in the store.
        """
        if not description or not description.strip():
            return torch.zeros(0, self.width, dtype=torch.float16)
        found = self._find(description)
        if found is None:
            raise ValueError(
                f"the description of item {name!r} has no states in {self.folder}: it is new, or was changed since; "
                f"run `{COMMAND.format(folder=self.folder)}`."
            )
        file = self._open(int(self._file_of[found]))
        rows = slice(int(self._starts[found]), int(self._ends[found]))
        states = torch.from_numpy(file.get_slice("states")[rows])
        if self.dtype == "int8":
            states = states * torch.from_numpy(file.get_slice("scales")[rows])[:, None]
        return states.half()

    def batch(self, descriptions: Sequence[str | None], names: Sequence[str]) -> dict[str, Tensor]:
        """What the model takes in place of token ids.

        Args:
            descriptions: of the items.
            names: their ids, for the message.

        Returns:
            `description_states` (batch, length, width) float16, padded with zeros, and `description_attention_mask`
            (batch, length), a row of zeros where there is no description.

        Raises:
            ValueError: as `read`.
        """
        states = [self.read(text, name=name) for text, name in zip(descriptions, names, strict=True)]
        lengths = torch.tensor([len(rows) for rows in states])
        # At least one column, for a batch without any description.
        padded = pad_sequence([*states, states[0].new_zeros(1, self.width)], batch_first=True)[:-1]
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        return {"description_states": padded, "description_attention_mask": mask.long()}

    def add(self, descriptions: Sequence[str], states: Sequence[Tensor]) -> None:
        """Write one more file; `reload` shows what is in it.

        Args:
            descriptions: texts.
            states: (length, width) for each.

        Raises:
            ValueError: a state is not finite or beyond float16, or has another width.
        """
        rows = torch.cat(list(states)).float()
        if rows.shape[1] != self.width or not bool((rows.abs() <= _LARGEST).all()):
            raise ValueError(
                f"states must be {self.width} wide and at most {_LARGEST:g}, got {rows.shape[1]} and "
                f"{float(rows.abs().max()):g}; this encoder cannot be stored, leave description_states out."
            )
        keys = np.array([_key(text) for text in descriptions], dtype=np.uint64).reshape(-1, 2)
        ends = np.cumsum([len(part) for part in states], dtype=np.int64)
        content: dict[str, NDArray[Any]] = {"keys": keys.view(np.uint8), "ends": ends}
        if self.dtype == "int8":
            scales = rows.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
            content |= {"states": (rows / scales[:, None]).round().to(torch.int8).numpy(), "scales": scales.numpy()}
        else:
            content["states"] = rows.half().numpy()
        # The same descriptions give the same name, so that work done twice takes no place.
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
        with atomic_write(self.folder / f"states-{name}.safetensors") as path:
            save_file(content, path, metadata={"encoder": json.dumps(self.encoder, sort_keys=True)})

    def _find(self, description: str) -> int | None:
        first, second = _key(description)
        place = int(np.searchsorted(self._keys[:, 0], np.uint64(first)))
        while place < len(self._keys) and self._keys[place, 0] == first:
            if self._keys[place, 1] == second:
                return place
            place += 1
        return None

    def _open(self, file: int) -> Any:
        # Mapped at the first read, so that a worker of a data loader maps the file itself.
        if file not in self._files:
            self._files[file] = safe_open(self._paths[file], framework="np")
        return self._files[file]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


def _key(description: str) -> tuple[int, int]:
    digest = hashlib.sha256(description.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no states of descriptions; run `{COMMAND.format(folder=folder)}`.")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        fits = header["dtype"] in _DTYPES and isinstance(header["encoder"], dict) and int(header["width"]) > 0
    except (ValueError, LookupError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f"{path} is damaged; remove the folder and run `{COMMAND.format(folder=folder)}`.")
    return header


def _check_encoder(folder: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differences = list(list_differences(found, asked))
    if differences:
        raise ValueError(
            f"{folder} holds the states of another description encoder: {'; '.join(differences)}. Name another folder, "
            f"made by `{COMMAND.format(folder='FOLDER')}`, or train with the encoder of this one."
        )


def _read_contents(path: Path, dtype: StatesDtype, width: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Keys (n, 2) of the descriptions of a file, and where the states of each end."""
    try:
        with safe_open(path, framework="np") as file:
            keys, ends, states = file.get_tensor("keys"), file.get_tensor("ends"), file.get_slice("states")
            shape, kind = states.get_shape(), states.get_dtype()
        keys = keys.view(np.uint64).reshape(-1, 2)
        fits = len(keys) == len(ends) and kind == _DTYPES[dtype] and shape == [int(ends[-1]), width]
        fits = fits and bool((np.diff(ends, prepend=0) >= 0).all())
    except (SafetensorError, OSError, ValueError, LookupError):
        fits = False
    if not fits:
        raise ValueError(
            f"{path} is damaged or of another store; delete it and run `{COMMAND.format(folder=path.parent)}`."
        )
    return keys, ends
