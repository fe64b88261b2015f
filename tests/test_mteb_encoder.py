"""A saved model in mteb: its embeddings and scores are ours, and its metadata claim nothing that is not known."""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta
from mteb.models.models_protocols import EncoderProtocol

from modeling_leccr.export import save_for_hub
from processing.languages import LANGUAGES
from reporting.model_record import ModelRecord
from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import item_composites
from retrieval.mteb_encoder import load_mteb_encoder, model_meta
from retrieval.ranks import rank_texts_and_items
from tests.hub_server import HubServer, hub
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor

CUTOFFS = (1, 3, 5)
# Two German captions of each item, in no order.
OWNERS = [3, 0, 1, 7, 2, 5, 4, 6, 0, 3, 2, 1, 6, 5, 7, 4]
CAPTIONS = [f"{SENTENCES[owner][1]} {'x' * (position // 8)}".strip() for position, owner in enumerate(OWNERS)]
ROWS = [{"image": tiny_image(i), "description": SENTENCES[i][2]} for i in range(len(SENTENCES))]
DATASET = "org/multi30k-leccr"
# As a recipe has towers that start from scratch.
FROM_SCRATCH = {"vision_tower": {"model_type": "clip_vision_model"}, "text_tower": {"model_type": "bert"}}
RECORD = ModelRecord(languages=("de", "zh"), settings={"dataset": DATASET, **FROM_SCRATCH})


class CaptionsToItems(AbsTaskRetrieval):
    """German captions as queries; pictures with their descriptions as documents."""

    metadata = TaskMetadata(
        type="Any2AnyRetrieval",
        name="CaptionsToItems",
        description="For tests.",
        reference=None,
        dataset={"path": "none", "revision": "none"},
        category="t2it",
        modalities=["image", "text"],
        eval_splits=["test"],
        eval_langs=["deu-Latn"],
        main_score="recall_at_1",
    )
    with_descriptions = True
    k_values = (*CUTOFFS, 10)

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        items: dict[str, list[Any]] = {"id": [f"i{i}" for i in range(len(ROWS))]}
        items["image"] = [row["image"] for row in ROWS]
        if self.with_descriptions:
            items["text"] = [row["description"] for row in ROWS]
        queries = {"id": [f"t{i}" for i in range(len(CAPTIONS))], "text": CAPTIONS}
        self.dataset = {
            "default": {
                "test": RetrievalSplitData(
                    queries=datasets.Dataset.from_dict(queries),
                    corpus=datasets.Dataset.from_dict(items).cast_column("image", datasets.Image()),
                    relevant_docs={f"t{i}": {f"i{owner}": 1} for i, owner in enumerate(OWNERS)},
                    top_ranked=None,
                )
            }
        }
        self.data_loaded = True


class CaptionsToPictures(CaptionsToItems):
    """The same with pictures that nobody described."""

    metadata = CaptionsToItems.metadata.model_copy(update={"name": "CaptionsToPictures", "category": "t2i"})
    with_descriptions = False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("mteb") / "model"
    return save_for_hub(
        tiny_model(description_dropout=0.2), tiny_processor(), target, record=RECORD, license_id="cc-by-4.0"
    )


def ranks(**settings: Any) -> np.ndarray:
    """Ranks of the items by our own code."""
    model, processor = tiny_model(description_dropout=0.2), tiny_processor()
    items = encode_items(model, processor, ROWS, progress=False, **settings)
    texts = encode_texts(model, processor, CAPTIONS, progress=False)
    composites = item_composites(*items, scoring="global", global_weight=1.0)
    return rank_texts_and_items(composites, texts, torch.tensor(OWNERS)).t2i.numpy()


@pytest.mark.parametrize("task", [CaptionsToItems, CaptionsToPictures])
def test_scores_of_mteb_are_ours(folder: Path, task: type[CaptionsToItems]):
    """A lost description, or another pooling, would publish the numbers of a worse model under our name."""
    found = mteb.evaluate(load_mteb_encoder(str(folder)), task(), cache=None, show_progress_bar=False)
    [scores] = found[0].scores["test"]
    expected = ranks(use_descriptions=task.with_descriptions)
    assert len(set(expected)) > 3, "ranks that are all equal would compare nothing"
    assert [scores[f"recall_at_{k}"] for k in CUTOFFS] == pytest.approx([(expected <= k).mean() for k in CUTOFFS])
    # All 8 items are among the first 10, so this tells each rank.
    assert scores["mrr_at_10"] == pytest.approx((1 / expected).mean(), abs=1e-5)


def test_descriptions_change_the_scores():
    """Otherwise the test above would pass with descriptions that reach nothing."""
    assert (ranks(use_descriptions=True) != ranks(use_descriptions=False)).any()


def test_embeddings_are_those_of_the_model(folder: Path):
    """mteb compares vectors; equal ranks of a few items may hide a difference."""
    encoder = load_mteb_encoder(str(folder))
    assert isinstance(encoder, EncoderProtocol)
    model, processor = tiny_model(description_dropout=0.2), tiny_processor()
    task = CaptionsToItems()
    task.load_data()
    split = task.dataset["default"]["test"]
    for kind, expected in (
        ("queries", encode_texts(model, processor, CAPTIONS, progress=False)),
        ("corpus", encode_items(model, processor, ROWS, progress=False)[0]),
    ):
        loader = torch.utils.data.DataLoader(split[kind], batch_size=3, collate_fn=columns)
        found = encoder.encode(
            loader, task_metadata=task.metadata, hf_split="test", hf_subset="default", show_progress_bar=False
        )
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-6)


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_metadata_tell_what_the_files_tell(folder: Path):
    """What mteb shows beside the scores is what people choose models by."""
    meta = model_meta(folder)
    assert ModelMeta.model_validate(meta.model_dump()) == meta
    weights = sum(parameter.numel() for parameter in tiny_model(description_dropout=0.2).parameters())
    assert meta.n_parameters == weights
    assert meta.memory_usage_mb == pytest.approx((folder / "model.safetensors").stat().st_size / 1024 / 1024)
    assert (meta.embed_dim, meta.max_tokens, meta.license) == (16, 48, "cc-by-4.0")
    assert meta.languages == ["eng-Latn", "deu-Latn", "zho-Hans"]
    assert meta.similarity_fn_name == "cosine" and meta.use_instructions is False
    assert set(meta.modalities) == {"image", "text"}
    assert meta.public_training_data == "org/multi30k-leccr"
    # Not of the Hub: who has the folder may not have published it.
    assert meta.open_weights is None and meta.reference is None


@pytest.fixture(scope="module")
def changed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModelMeta]:
    """Metadata of the model with other settings in its record."""
    copy = tmp_path_factory.mktemp("changed") / "model"
    shutil.copytree(folder, copy)

    def meta(**settings: Any) -> ModelMeta:
        ModelRecord(settings={"dataset": DATASET, **FROM_SCRATCH, **settings}).write(copy)
        return model_meta(copy)

    return meta


def test_pictures_seen_in_training_are_named(changed: Callable[..., ModelMeta]):
    """Multi30K and Flickr30K share pictures; a model of the one is not untrained for the other."""
    names = ["Multi30kT2IRetrieval", "Flickr30kI2TRetrieval", "MSCOCOT2IRetrieval", "XM3600T2IRetrieval"]
    for dataset, expected in [
        ("org/multi30k-leccr", [False, False, True, True]),
        ("Flickr30K_zh", [False, False, True, True]),
        ("org/MSCOCO.de", [True, True, False, True]),
        ("coco", [True, True, False, True]),
        ("org/coco-and-multi30k", [False, False, False, True]),
    ]:
        meta = changed(dataset=dataset)
        assert [meta.is_zero_shot_on([name]) for name in names] == expected, dataset
        assert meta.training_datasets and all(mteb.get_task(name) for name in meta.training_datasets)


def test_a_name_that_only_looks_like_a_source_tells_nothing(changed: Callable[..., ModelMeta]):
    """One wrong source would make "never seen" of "unknown" for every other benchmark."""
    for dataset in ("org/cocoa-pests", "130k-images", "org/flickr30kids", "org/rococo", "org/pets", None):
        assert changed(dataset=dataset).training_datasets is None, dataset
    assert changed(dataset="130k-images").is_zero_shot_on(["Flickr30kT2IRetrieval"]) is None


def test_towers_of_others_make_the_training_pictures_unknown(changed: Callable[..., ModelMeta]):
    """CLIP may have seen any benchmark; "never seen" would then be our invention."""
    clip, bert = "openai/clip-vit-base-patch32", "google-bert/bert-base-multilingual-cased"
    for settings, base in [
        ({"vision_tower": clip}, clip),
        ({"text_tower": bert}, bert),
        ({"vision_tower": clip, "text_tower": clip}, clip),
        ({"vision_tower": clip, "text_tower": bert}, None),  # mteb has room for one
        ({"vision_tower": "a-folder"}, None),
        ({"text_tower": None}, None),
    ]:
        meta = changed(**settings)
        assert meta.training_datasets is None and meta.is_zero_shot_on(["XM3600T2IRetrieval"]) is None, settings
        assert meta.adapted_from == base
    assert changed().adapted_from is None


def test_the_vision_tower_does_not_count_where_no_picture_is_read(tmp_path: Path):
    """The recipe has one all the same, by default from the Hub; such a model has no part of it."""
    settings = {"dataset": DATASET, **FROM_SCRATCH, "vision_tower": "openai/clip-vit-base-patch32"}
    folder = tmp_path / "run" / "model"
    save_for_hub(tiny_model(item_source="description"), tiny_processor(), folder, record=ModelRecord(settings=settings))
    assert model_meta(folder).training_datasets


def test_what_is_not_known_is_not_claimed(tmp_path: Path):
    """mteb takes an empty set of training data for the promise that a benchmark was never seen."""
    save_for_hub(tiny_model(item_source="description"), tiny_processor(), tmp_path / "run" / "model")
    meta = model_meta(tmp_path / "run" / "model")
    assert meta.name == "run/model"
    assert meta.training_datasets is None and meta.is_zero_shot_on(["XM3600T2IRetrieval"]) is None
    assert (meta.languages, meta.license, meta.public_training_code, meta.public_training_data) == (None,) * 4
    assert meta.modalities == ["text"]


def test_two_models_in_folders_of_one_name_are_two_models(folder: Path, tmp_path: Path):
    """mteb takes scores from its cache by name and revision, so the second would get those of the first."""
    other = save_for_hub(tiny_model(seed=1, description_dropout=0.2), tiny_processor(), tmp_path / "model")
    assert model_meta(folder).revision == model_meta(folder).revision != model_meta(other).revision


def test_every_language_has_a_code_of_mteb(tmp_path: Path):
    """A code that mteb does not know would stop the evaluation of a model with this language."""
    record = ModelRecord(languages=tuple(code for code in LANGUAGES if code != "en"))
    save_for_hub(tiny_model(), tiny_processor(), tmp_path / "run" / "model", record=record)
    assert len(model_meta(tmp_path / "run" / "model").languages or []) == len(LANGUAGES)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with hub(tmp_path / "home") as running:
        yield running


def test_a_model_on_the_hub_has_its_commit_as_revision(
    folder: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
):
    """Scores without the commit cannot be repeated."""
    api, name = HfApi(token=server.token), "owner/leccr-x"
    api.create_repo(name)
    commit = api.upload_folder(repo_id=name, folder_path=folder).oid
    api.upload_file(repo_id=name, path_or_fileobj=b"{}", path_in_repo="metrics.json")
    meta = load_mteb_encoder(name, revision=commit).mteb_model_meta
    assert (meta.name, meta.revision) == (name, commit)
    assert meta.open_weights is True and meta.reference == f"{server.url}/{name}"
    assert meta.languages == ["eng-Latn", "deu-Latn", "zho-Hans"]
    newest = load_mteb_encoder(name).mteb_model_meta
    assert newest.revision != commit and newest.languages is None
    # Given the metadata alone, mteb loads the same model by itself; of every model of pictures it wants torchvision.
    monkeypatch.setattr(ModelMeta, "_check_requirements", lambda meta: None)
    loaded = meta.load_model()
    assert loaded.mteb_model_meta.revision == commit
    expected = encode_texts(tiny_model(description_dropout=0.2), tiny_processor(), CAPTIONS, progress=False)
    np.testing.assert_allclose(loaded.model.encode(CAPTIONS), expected.numpy(), rtol=0, atol=1e-6)


def test_weights_are_open_where_everybody_can_read_them(
    folder: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
):
    """Whoever is logged in sees more than others, and would call a private model open."""
    HfApi(token=server.token).create_repo("owner/leccr-x")
    repository = server.repositories["models", "owner/leccr-x"]
    monkeypatch.setenv("HF_TOKEN", server.token)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    assert HfApi().whoami()["name"] == "owner"
    assert model_meta(folder, "owner/leccr-x").open_weights is True
    repository.gated = "auto"
    assert model_meta(folder, "owner/leccr-x").open_weights is False
    repository.gated, repository.private = False, True
    assert model_meta(folder, "owner/leccr-x").open_weights is None


def test_the_device_is_the_chosen_one(folder: Path):
    """On a machine with a GPU that others use, the default would take it."""
    assert load_mteb_encoder(str(folder), device="meta").model.device.type == "meta"


def test_a_folder_that_would_lose_descriptions_is_refused(tmp_path: Path):
    """Without its files sentence-transformers guesses, and cannot take an image with a text."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "bare")
    tiny_processor().save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"no \['modules\.json'\].*save_for_hub"):
        load_mteb_encoder(str(tmp_path / "bare"))
    (tmp_path / "bare" / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"no \['modules\.json', 'processor_config\.json'\].*save_for_hub"):
        load_mteb_encoder(str(tmp_path / "bare"))
    assert model_meta(tmp_path / "bare").max_tokens is None


def test_without_mteb_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    """The extra is optional; "No module named mteb" would send people to another package's page."""
    monkeypatch.delitem(sys.modules, "retrieval.mteb_encoder")
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(ImportError, match=r'run `pip install -e "\.\[mteb\]"` in the checkout'):
        importlib.import_module("retrieval.mteb_encoder")
