"""What each of several processes does in tests/test_retrieval_sharing.py."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from hub_scripts import encode_descriptions
from modeling_leccr import LeccrModel
from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import evaluate_retrieval
from retrieval.items import find_unreadable
from retrieval.sharing import Processes
from tests.tiny import SENTENCES, tiny_model, tiny_processor
from tests.training_parts import tiny_split

NUM_ITEMS = 11
NUM_DESCRIPTIONS = 13
UNLUCKY = 1
TEXTS = [text for sentence in SENTENCES for text in sentence]
# Rows and batch size: batches that do not come out even, fewer batches than processes, fewer rows than processes.
CASES = {"uneven": (11, 2), "few-batches": (11, 64), "few-rows": (2, 1), "one-row": (1, 8)}


def lively_model(**fields: Any) -> LeccrModel:
    """Weights so large that no two rows have nearly the same embedding."""
    model = tiny_model(description_dropout=0.1, **fields)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(10)
    return model


def rows(num_rows: int = NUM_ITEMS) -> list[dict[str, Any]]:
    """Items; every third has no description."""
    return [
        {**row, "description": None if i % 3 == 2 else row["description"]} for i, row in enumerate(tiny_split(num_rows))
    ]


def embeddings(*, shared: bool) -> dict[str, Tensor]:
    """All cases in this process, or shared by those that are there."""
    model, processor, found = lively_model(), tiny_processor(), {}
    for case, (num_rows, batch_size) in CASES.items():
        settings: dict[str, Any] = {"progress": False, "shared": shared}
        images, slots = encode_items(model, processor, rows(num_rows), batch_size, **settings)
        texts = encode_texts(model, processor, TEXTS[:num_rows], batch_size, **settings)
        found |= {f"{case}/images": images, f"{case}/slots": slots, f"{case}/texts": texts}
    plain = lively_model(item_source="image")
    found["plain/images"], _ = encode_items(plain, processor, rows(), 2, progress=False, shared=shared)
    return found


def metrics(*, shared: bool) -> dict[str, float]:
    return evaluate_retrieval(
        lively_model(), tiny_processor(), tiny_split(NUM_ITEMS), ["de"], batch_size=2, progress=False, shared=shared
    )


class CountingModel:
    """Forwards passes to a model and counts them; one process can be made to fail."""

    def __init__(self, model: LeccrModel, *, fails_at: int | None = None) -> None:
        self.model, self.fails_at, self.num_passes = model, fails_at, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's."""
        self.num_passes += 1
        if self.num_passes == self.fails_at:
            raise ValueError("this process is out of luck")
        return self.model.get_text_features(*args, **kwargs)


def message_of(work: Any) -> str:
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def prepare_descriptions(folder: Path) -> None:
    """A model with a frozen description encoder, and a split of items with a description each."""
    model = tiny_model(description_encoder="frozen")
    model.save_pretrained(folder / "model")
    tiny_processor().save_pretrained(folder / "model")
    (folder / "data").mkdir()
    descriptions = [f"{SENTENCES[i % 8][2]} {i}" for i in range(NUM_DESCRIPTIONS)]
    split = tiny_split(NUM_DESCRIPTIONS, description=descriptions)
    split.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))


def encode_descriptions_into(store: Path, folder: Path) -> int:
    """The command, as each process of a launch runs it; number of descriptions that it added."""
    sizes = ["--batch-size", "2", "--rows-per-shard", "2", "--device", "cpu"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        encode_descriptions.main(
            ["--model", str(folder / "model"), "--dataset", str(folder / "data"), "--out", str(store), *sizes]
        )
    return json.loads(printed.getvalue())["added"]


def run(folder: Path) -> None:
    """All cases, in one of the processes; what it found goes to FOLDER/<rank>.safetensors."""
    rank = dist.get_rank()
    found = embeddings(shared=True)
    found |= {
        f"metric/{name}": torch.tensor([value], dtype=torch.float64) for name, value in metrics(shared=True).items()
    }
    processor = tiny_processor()
    counting = CountingModel(lively_model())
    encode_texts(counting, processor, TEXTS[:5], 1, progress=False, shared=True)
    found["passes"] = torch.tensor([counting.num_passes])
    damaged = [{**row, "image": None} if i in (1, 2, 9) else row for i, row in enumerate(rows())]
    found["unreadable"] = torch.tensor(find_unreadable(damaged, shared=True))
    unlucky = CountingModel(lively_model(), fails_at=1 if rank == UNLUCKY else None)
    messages = {
        "failure": message_of(lambda: encode_texts(unlucky, processor, TEXTS, progress=False, shared=True)),
        "other rows": message_of(
            lambda: encode_texts(counting, processor, [*TEXTS, str(rank)], progress=False, shared=True)
        ),
        "after": message_of(lambda: encode_texts(counting, processor, TEXTS, progress=False, shared=True)),
        "alone": message_of(lambda: rank or encode_texts(counting, processor, TEXTS, progress=False)),
    }
    dist.barrier()  # all start the store at once
    found["added"] = torch.tensor(encode_descriptions_into(folder / "store", folder))
    found["counts"] = torch.tensor([Processes(shared=True).count, Processes(shared=False).count])
    messages["split weights"] = message_of(lambda: fail_with_split_weights(rank))  # the last, for the group is broken
    save_file({name: value.contiguous() for name, value in found.items()}, folder / f"{rank}.safetensors", messages)


def fail_with_split_weights(rank: int) -> None:
    """Embed with a model of which each process holds a part; one of them fails in its second batch."""
    model = lively_model()
    for layer in (*model.text_model.encoder.layer, model):
        fully_shard(layer)
    register_fsdp_forward_method(model, "get_text_features")
    counting = CountingModel(model, fails_at=2 if rank == UNLUCKY else None)
    encode_texts(counting, tiny_processor(), TEXTS[:6], 1, progress=False, shared=True)
