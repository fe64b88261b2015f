"""Repositories and folders made to do harm, without `trust_remote_code`: refused, nothing executed, nothing written.

Some of it transformers and huggingface_hub refuse themselves; it is held here all the same, for people load what
strangers pushed with the versions that we ask for.
"""

import io
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import hf_hub_download, snapshot_download
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor

from modeling_leccr import LeccrModel
from modeling_leccr.export import save_for_hub
from processing.processing_leccr import LeccrProcessor
from tests.hub_parts import files_of
from tests.hub_repositories import File, Repository
from tests.hub_server import HubServer, environment, hub
from tests.loading_worker import run
from tests.tiny import tiny_model, tiny_processor

INDEX = "model.safetensors.index.json"
Files = dict[str, bytes]


class Payload:
    """Creates a file as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@dataclass(frozen=True)
class Scene:
    """A good model, and the places where an attack would leave its traces.

    Attributes:
        folder: everything of the test; `home` in it holds the caches.
        files: of a good model.
        canary: the file that payloads create.
        server: a Hub with owner/evil, whose evil.py creates the canary.
    """

    folder: Path
    files: Files
    canary: Path
    server: HubServer

    @property
    def code(self) -> bytes:
        return f"open({str(self.canary)!r}, 'w')\nclass Evil:\n    pass\n".encode()

    @property
    def pickle(self) -> bytes:
        return pickle.dumps(Payload(self.canary))

    @property
    def torch_file(self) -> bytes:
        buffer = io.BytesIO()
        torch.save({"slot_projection.bias": Payload(self.canary)}, buffer)
        return buffer.getvalue()

    def with_config(self, changes: Mapping[str, Any], file: str = "config.json") -> Files:
        """The files with other fields in one of them; `text_config.hidden_size` is a field of a part."""
        content = json.loads(self.files[file])
        for path, value in changes.items():
            *parts, name = path.split(".")
            target = content
            for part in parts:
                target = target[part]
            target[name] = value
        return {**self.files, file: json.dumps(content).encode()}

    def without_weights(self, **files: bytes) -> Files:
        """The files with others (`__` is a dot) in place of the weights."""
        kept = {name: data for name, data in self.files.items() if not name.endswith(".safetensors")}
        return kept | {name.replace("__", "."): data for name, data in files.items()}

    def with_index(self, place: str, **files: bytes) -> Files:
        """The weights named by an index."""
        index = {"metadata": {}, "weight_map": {"slot_projection.bias": place}}
        return {**self.without_weights(**files), INDEX: json.dumps(index).encode()}

    def write(self, name: str, files: Files) -> Path:
        """The files as a folder, beside an evil.py that a path could climb to."""
        folder = self.folder / "folders" / name / "model"
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        (folder.parent / "evil.py").write_bytes(self.code)
        (folder.parent / "weights.safetensors").write_bytes(self.files["model.safetensors"])
        return folder

    def publish(self, name: str, files: Files) -> str:
        """The files as a repository, with names that no honest client would send."""
        found = Repository(f"owner/{name}", private=False)
        found.add("main", "add", {path: File(data, lfs=path.endswith(".safetensors")) for path, data in files.items()})
        self.server.repositories["models", found.name] = found
        return found.name

    def traces(self) -> set[Path]:
        """All files outside of the caches."""
        return {path for path in self.folder.rglob("*") if not path.is_relative_to(self.folder / "home")}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return files_of(save_for_hub(tiny_model(), tiny_processor(), tmp_path_factory.mktemp("good") / "model"))


@pytest.fixture
def scene(tmp_path: Path, files: Files) -> Iterator[Scene]:
    with hub(tmp_path / "home") as server:
        scene = Scene(tmp_path, files, tmp_path / "canary", server)
        scene.publish("evil", {"evil.py": scene.code})
        yield scene


def state_file() -> bytes:
    """Good weights in the old format, which transformers would take."""
    buffer = io.BytesIO()
    torch.save(tiny_model().state_dict(), buffer)
    return buffer.getvalue()


SAFE = "LECCR reads weights as safetensors alone"
OUTSIDE = r"must name \.safetensors files beside it|cannot contain a '\.\.' path segment|cannot be an absolute"
ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "owner/evil", "r": 2, "target_modules": ["text_projection"]}
WEIGHTS: dict[str, tuple[Callable[[Scene], Files], str]] = {
    "pickle": (lambda scene: scene.without_weights(pytorch_model__bin=scene.pickle), SAFE),
    "torch-file": (lambda scene: scene.without_weights(pytorch_model__bin=scene.torch_file), SAFE),
    "harmless-torch-file": (lambda scene: scene.without_weights(pytorch_model__bin=state_file()), SAFE),
    "pickle-as-safetensors": (
        lambda scene: {**scene.files, "model.safetensors": scene.pickle},
        "is truncated or no safetensors",
    ),
    "torch-file-as-safetensors": (
        lambda scene: {**scene.files, "model.safetensors": scene.torch_file},
        "is truncated or no safetensors",
    ),
    "pickle-in-config": (
        lambda scene: {
            **scene.with_config({"transformers_weights": "adapter_model.bin"}),
            "adapter_model.bin": scene.pickle,
        },
        "are a pickle",
    ),
    "pickle-in-index": (
        lambda scene: scene.with_index("evil.bin", evil__bin=scene.torch_file),
        rf"{OUTSIDE}|are a pickle",
    ),
    "pickle-in-adapter": (
        lambda scene: {
            **scene.files,
            "adapter_config.json": json.dumps(ADAPTER).encode(),
            "adapter_model.bin": scene.pickle,
        },
        rf"{SAFE}|Unrecognized model in owner/evil",  # on the Hub the adapter's base model is loaded instead
    ),
    "climbing-index": (lambda scene: scene.with_index("../weights.safetensors"), OUTSIDE),
    "absolute-index": (lambda scene: scene.with_index(str(scene.folder / "weights.safetensors")), OUTSIDE),
    "climbing-weights": (
        lambda scene: scene.with_config({"transformers_weights": "../weights.safetensors"}),
        "must reference a file inside the model directory|Can't load the model for 'owner/climbing-weights'",
    ),
}
CONFIGURATIONS: dict[str, tuple[Mapping[str, Any], str]] = {
    "width": ({"text_config.hidden_size": 10**12}, "text_config.hidden_size must be at most"),
    "vocabulary": ({"text_config.vocab_size": 10**9}, "text_config.vocab_size must be at most"),
    "layers": ({"vision_config.num_hidden_layers": 10**9}, "vision_config.num_hidden_layers must be at most"),
    "slots": ({"num_slots": 10**12}, "num_slots must be at most"),
    "slot-layers": ({"num_slot_layers": 10**9}, "num_slot_layers must be at most"),
    "negative": ({"num_slots": -1}, "num_slots must be at least 1"),
    "negative-width": ({"text_config.hidden_size": -3}, "text_config.hidden_size must be at least 1"),
    "no-heads": ({"text_config.num_attention_heads": 0}, "text_config.num_attention_heads must be at least 1"),
    "nan": ({"dropout": float("nan")}, r"dropout must lie in \[0, 1\], got nan"),
    "infinite": ({"max_logit_scale": float("inf")}, "max_logit_scale must be finite"),
    "text": ({"num_slots": "4"}, "'num_slots' expected int, got str"),
    "part-is-list": ({"vision_config": [1]}, "vision_config"),
    "part-is-text": ({"text_config": "owner/evil"}, "text_config"),
    "part-of-unknown-type": ({"vision_config": {"model_type": "evil"}}, "evil"),
    "part-of-other-type": ({"text_config.model_type": "clip_vision_model"}, "does not fit its configuration"),
    "unknown-type": ({"model_type": "evil"}, "trust_remote_code=True"),
    "kernel": ({"_attn_implementation": "owner/evil"}, "kernel"),
}
BROKEN_JSON = {"no-json": b"{'a': open('x')}", "binary": b"\x80\x04\x95", "list": b"[1]", "empty": b""}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_could_do_harm_are_refused(scene: Scene, name: str) -> None:
    """A pickle runs code as it is read, and an index can name any file of the machine."""
    make, message = WEIGHTS[name]
    assert_refused(scene, name, make(scene), message)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_malformed_configuration_is_refused(scene: Scene, name: str) -> None:
    """One number in a text file must not fill the memory, and a wrong type must not start a random model."""
    changes, message = CONFIGURATIONS[name]
    assert_refused(scene, name, scene.with_config(changes), message)


@pytest.mark.parametrize("name", BROKEN_JSON)
def test_a_configuration_that_is_no_json_object_is_refused(scene: Scene, name: str) -> None:
    """It must be named as what is wrong."""
    assert_refused(scene, name, {**scene.files, "config.json": BROKEN_JSON[name]}, r"config\.json")


def test_no_argument_brings_pickles_back(scene: Scene) -> None:
    """None, the default of transformers for `use_safetensors`, reads pytorch_model.bin where there is nothing else."""
    files = scene.without_weights(pytorch_model__bin=state_file())
    for source in (scene.write("state", files), scene.publish("state", files)):
        for load in (AutoModel.from_pretrained, LeccrModel.from_pretrained):
            for value in (None, True):
                with pytest.raises(OSError, match=SAFE):
                    load(source, use_safetensors=value)
    both = {**scene.files, "pytorch_model.bin": scene.torch_file}
    for source in (scene.write("both", both), scene.publish("both", both)):
        with pytest.raises(ValueError, match="use_safetensors must not be False"):
            AutoModel.from_pretrained(source, use_safetensors=False)
        assert type(LeccrModel.from_pretrained(source, use_safetensors=None, subfolder=None)) is LeccrModel
    assert not scene.canary.exists()


def assert_refused(scene: Scene, name: str, files: Files, message: str) -> None:
    """As a folder and as a repository, by both ways to load: an error, and no traces."""
    (scene.folder / "weights.safetensors").write_bytes(scene.files["model.safetensors"])
    sources = (scene.write(name, files), scene.publish(name, files))
    before = scene.traces()
    for source in sources:
        for load in (AutoModel.from_pretrained, LeccrModel.from_pretrained):
            if load == LeccrModel.from_pretrained and name in ("unknown-type", *BROKEN_JSON):
                continue  # It knows its class without asking the file.
            with pytest.raises(Exception, match=message):
                load(source)
    assert scene.traces() == before
    assert not scene.canary.exists()


OUTSIDE_CODE = ("owner/evil--evil.Evil", "evil.Evil", "../evil.Evil", "../../evil.Evil", "/evil.Evil")


@pytest.mark.parametrize("reference", OUTSIDE_CODE[:3])
@pytest.mark.parametrize("trust", [None, True])
def test_with_the_package_the_code_that_a_model_names_is_not_run(
    scene: Scene, reference: str, trust: bool | None
) -> None:
    """Who has the package gets its classes, whatever the files say."""
    names = {"AutoConfig": reference, "AutoModel": reference, "AutoProcessor": reference}
    files = scene.with_config({"auto_map": names, "vision_config.auto_map": names, "text_config.auto_map": names})
    files["processor_config.json"] = scene.with_config({"auto_map": names}, "processor_config.json")[
        "processor_config.json"
    ]
    files["evil.py"] = scene.code
    for source in (scene.write("auto-map", files), scene.publish("auto-map", files)):
        assert type(AutoModel.from_pretrained(source, trust_remote_code=trust)) is LeccrModel
        assert type(AutoProcessor.from_pretrained(source, trust_remote_code=trust)) is LeccrProcessor
    assert not scene.canary.exists()


@pytest.mark.parametrize("reference", OUTSIDE_CODE[:2])
def test_the_code_that_a_tokenizer_or_an_image_processor_names_is_not_run(scene: Scene, reference: str) -> None:
    """The parts of a processor have classes of their own."""
    tokenizer = scene.with_config({"auto_map": {"AutoTokenizer": [reference, reference]}}, "tokenizer_config.json")
    image = scene.with_config({"image_processor.auto_map": {"AutoImageProcessor": reference}}, "processor_config.json")
    for name, files in (("tokenizer", tokenizer), ("image-processor", image)):
        files["evil.py"] = scene.code
        for source in (scene.write(name, files), scene.publish(name, files)):
            assert type(AutoProcessor.from_pretrained(source)) is LeccrProcessor
    assert not scene.canary.exists()


def test_files_that_are_no_part_of_a_model_are_not_read(scene: Scene) -> None:
    """Pickles that tools leave beside a model must stay closed."""
    names = ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "tokenizer.pkl", "vocab.bin", "vocab.pkl")
    files = {**scene.files, **dict.fromkeys(names, scene.pickle), "__init__.py": scene.code}
    for source in (scene.write("extra", files), scene.publish("extra", files)):
        AutoModel.from_pretrained(source)
        AutoProcessor.from_pretrained(source)
    with pytest.raises(ValueError, match="utf-8"):
        AutoProcessor.from_pretrained(scene.write("text", {**files, "tokenizer.json": scene.pickle}))
    assert not scene.canary.exists()


@pytest.mark.parametrize(
    "path", ["../../../../evil.txt", "a/../../../../../evil.txt", "{folder}/evil.txt", "..\\evil.txt"]
)
def test_file_names_that_climb_out_are_refused(scene: Scene, path: str) -> None:
    """A repository lists its files itself, and a client that joins paths would write anywhere."""
    path = path.format(folder=scene.folder)
    name = scene.publish("climbing", {"config.json": b"{}", path: b"evil"})
    before = scene.traces()
    for download in (
        lambda: snapshot_download(name),
        lambda: snapshot_download(name, local_dir=scene.folder / "home" / "here"),
        lambda: hf_hub_download(name, path),
    ):
        with pytest.raises(ValueError, match="Invalid filename"):
            download()
    assert scene.traces() == before
    assert not list(scene.folder.rglob("*evil.txt"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("path", "../outside", "expected a relative path without"),
        ("path", "/outside", "expected a relative path without"),
        ("type", "evil.Evil", "trust_remote_code=True"),
        ("type", "owner/evil--evil.Evil", "trust_remote_code=True"),
    ],
)
def test_modules_of_sentence_transformers_stay_inside(scene: Scene, field: str, value: str, message: str) -> None:
    """It reads a list of folders and classes of its own."""
    modules = json.loads(scene.files["modules.json"])
    modules[0][field] = value
    files = {**scene.files, "modules.json": json.dumps(modules).encode(), "evil.py": scene.code}
    for source in (scene.write("modules", files), scene.publish("modules", files)):
        with pytest.raises(ValueError, match=message):
            SentenceTransformer(str(source))
    assert not scene.canary.exists()


def test_strangers_are_refused_all_of_it(scene: Scene) -> None:
    """Without the package a model of ours is custom code, and there nothing of it may run unasked."""
    variants = {name: make(scene) for name, (make, _) in WEIGHTS.items()}
    variants |= {name: scene.with_config(changes) for name, (changes, _) in CONFIGURATIONS.items()}
    variants |= {name: {**scene.files, "config.json": data} for name, data in BROKEN_JSON.items()}
    for position, reference in enumerate(OUTSIDE_CODE):
        names = {"AutoConfig": reference, "AutoModel": reference, "AutoProcessor": reference}
        files = scene.with_config({"auto_map": names})
        processor = scene.with_config({"auto_map": names}, "processor_config.json")["processor_config.json"]
        variants[f"auto-map-{position}"] = {**files, "processor_config.json": processor, "evil.py": scene.code}
    steps = []
    for name, files in variants.items():
        for source in (scene.publish(name, files), str(scene.write(name, files))):
            loaders = ("AutoModel", "AutoProcessor") if name.startswith("auto-map") else ("AutoModel",)
            steps += [{"name": source, "loader": loader} for loader in loaders]
    bert = {"model_type": "bert", **json.loads(scene.files["config.json"])["text_config"]}
    pretender = {"config.json": json.dumps({**bert, "auto_map": {"AutoModel": "owner/evil--evil.Evil"}}).encode()}
    steps.append({"name": scene.publish("bert", {**pretender, "pytorch_model.bin": scene.pickle})})
    before = scene.traces()
    result = run(scene.folder / "home" / "run", steps, environment(scene.server, scene.folder / "home"))
    for step, outcome in zip(steps, result["outcomes"], strict=True):
        assert "error" in outcome, step
    assert "trust_remote_code=True" in result["outcomes"][0]["error"]
    assert "Weights only load failed" in result["outcomes"][-1]["error"]
    assert result["remote_code"] == []
    assert scene.traces() == before
    assert not scene.canary.exists()
