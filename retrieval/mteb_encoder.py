"""Saved models in the public benchmarks of embeddings; needs the extra `mteb`.

    encoder = load_mteb_encoder("org/leccr-x")
    mteb.evaluate(encoder, mteb.get_tasks(["XM3600T2IRetrieval"], languages=["deu"]))

mteb's own wrapper for sentence-transformers encodes. A text is a caption or query, an image is an item without a
description, and where one document has both, the text is the description of the item. One vector of an item is
compared with one of a text, so items are ranked by the global score; `retrieval.evaluation` ranks by the fused one,
which takes the slots as well. A model of clips embeds videos in place of images, one of features of frames texts alone.
`mteb.evaluate` loads no model of pictures by itself where torchvision is not installed; given the encoder, it needs
none.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils.sha import sha_fileobj

import modeling_leccr  # noqa: F401 - registers the Auto classes
from processing.extras import install_hint
from processing.languages import LANGUAGES, SOURCE_LANGUAGE
from reporting.model_facts import ModelFacts, read_facts

try:
    from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper
    from mteb.models.model_meta import ScoringFunction
    from mteb.types import Licenses, Modalities
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    raise ImportError(f"benchmarks need mteb, which is not there ({error}); {install_hint('mteb')}.") from error

# Word in the name of a data set -> tasks of mteb whose pictures have the same source.
_TASKS_BY_SOURCE = {
    "(flickr|multi)30k": ("Flickr30k{}Retrieval", "Multi30k{}Retrieval", "XFlickr30kCo{}Retrieval"),
    "(ms)?coco": ("MSCOCO{}Retrieval",),
}
# Written by `save_for_hub`; by the first sentence-transformers gives a description to the model beside its image.
_NEEDED_FILES = ("modules.json", "processor_config.json")


def load_mteb_encoder(
    name: str, *, revision: str | None = None, device: str | None = None
) -> SentenceTransformerEncoderWrapper:
    """A saved model as `mteb.evaluate` takes it, with what its files tell about it.

    Args:
        name: name on the Hub, or a folder that `save_for_hub` wrote.
        revision: branch, tag or commit of a name on the Hub.
        device: where it computes; on a GPU if there is one by default.

    Raises:
        ValueError: one of the files is damaged or missing.
        FileNotFoundError: there is no saved model.
    """
    is_folder = Path(name).is_dir()
    folder = Path(name).resolve() if is_folder else Path(snapshot_download(name, revision=revision))
    meta = model_meta(folder, None if is_folder else name)
    if missing := [file for file in _NEEDED_FILES if not (folder / file).is_file()]:
        raise ValueError(f"{name} has no {missing}, by which pictures and texts are read; save it with `save_for_hub`.")
    encoder = SentenceTransformerEncoderWrapper(SentenceTransformer(str(folder), device=device))
    encoder.mteb_model_meta = meta
    return encoder


def model_meta(folder: Path, repo_id: str | None = None) -> ModelMeta:
    """What mteb publishes beside scores. What the files do not tell is None, which mteb reads as unknown.

    Args:
        folder: a saved model; of one on the Hub its snapshot in the cache, which has the name of the commit.
        repo_id: its name on the Hub. Without it the end of the path is the name, and a hash of the weights is the
            revision: mteb takes what has the same name and revision for the same model, and its scores from the cache.

    Raises:
        ValueError: a file is damaged.
        FileNotFoundError: no configuration or no weights.
    """
    name = repo_id or "/".join(folder.parts[-2:])
    facts = read_facts(folder, name)
    weights = sorted(folder.glob("model*.safetensors"))
    languages = [LANGUAGES[code] for code in (SOURCE_LANGUAGE, *facts.record.languages) if code in LANGUAGES]
    return ModelMeta(
        loader=SentenceTransformerEncoderWrapper if repo_id else None,
        name=name,
        revision=folder.name if repo_id else _hash(weights),
        release_date=None,
        languages=[language.flores.replace("_", "-") for language in languages] if facts.record.languages else None,
        n_parameters=facts.num_parameters,
        memory_usage_mb=sum(path.stat().st_size for path in weights) / 2**20,
        max_tokens=facts.processor.get("max_length"),
        embed_dim=facts.config.get("embed_dim"),
        license=facts.license_id if facts.license_id in get_args(Licenses) else None,
        open_weights=_is_public(repo_id) if repo_id else None,
        public_training_code=None,
        public_training_data=facts.hub_dataset,
        framework=["Sentence Transformers", "Transformers", "PyTorch", "safetensors"],
        reference=f"{constants.ENDPOINT}/{repo_id}" if repo_id else None,
        similarity_fn_name=ScoringFunction("cosine"),
        use_instructions=False,
        training_datasets=_training_tasks(facts),
        adapted_from=facts.base_models[0] if len(facts.base_models) == 1 else None,  # mteb has room for one
        modalities=_modalities(facts),
    )


def _modalities(facts: ModelFacts) -> list[Modalities]:
    """What it embeds there; features of frames are no input of mteb."""
    found: list[Modalities] = ["text"]
    if facts.reads_image and facts.vision_input != "features":
        found.append("image" if facts.vision_input == "image" else "video")
    return found


def _training_tasks(facts: ModelFacts) -> set[str] | None:
    """Tasks of mteb whose pictures it was trained on.

    None where they are not known. Of any set, the empty one above all, mteb says that no other task was seen in
    training; so nothing is said of a model that started from weights of others, whose pictures nobody listed here.
    """
    towers = ("vision", "text") if facts.reads_image else ("text",)
    # What starts from scratch is recorded as its configuration.
    if not all(isinstance(facts.record.settings.get(f"{tower}_tower"), Mapping) for tower in towers):
        return None
    found = {
        task.format(direction)
        for source, tasks in _TASKS_BY_SOURCE.items()
        if re.search(rf"(?<![a-z0-9]){source}(?![a-z0-9])", (facts.dataset or "").lower())
        for task in tasks
        for direction in ("T2I", "I2T")
    }
    return found or None


def _is_public(repo_id: str) -> bool | None:
    """Whether anybody can read it; None where the Hub does not say so."""
    try:
        return not HfApi(token=False).model_info(repo_id).gated
    except (HTTPError, OfflineModeIsEnabled):
        return None


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(sha_fileobj(file))
    return digest.hexdigest()
