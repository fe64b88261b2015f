import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from processing_parts import TEXTS, picture, png_bytes, tiny_processor, tiny_tokenizer
from transformers import CLIPImageProcessorPil, ProcessorMixin, ViTImageProcessorPil

from processing import visual_inputs_leccr
from processing.processing_leccr import LeccrProcessor
from tests.hub_server import hub

_LOAD_ELSEWHERE = """
import json, sys, torch
from PIL import Image
from transformers import AutoProcessor
for name in ("processing", "modeling_leccr"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(name + " must not be importable here")
try:
    AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    raise SystemExit("code of the folder ran without being trusted")
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
texts = json.loads(sys.argv[2])
frame = Image.open(sys.argv[1] + "/picture.png")
batch = processor(images=frame, text=texts, descriptions=[texts[0]])
videos = processor(videos=[[frame] * 3, [frame]])
features = processor(features=[sys.argv[1] + "/features.npy", [[1.0, 2.0]]])
sys.modules["av"] = None  # as where PyAV is not installed
try:
    processor(videos=sys.argv[1] + "/clip.mp4")
except ImportError as error:
    assert "reading videos needs PyAV" in str(error), error
else:
    raise SystemExit("a clip was read without PyAV")
settings = [processor.max_length, processor.clean_captions, processor.max_words, processor.padding]
settings += [processor.num_frames, processor.frame_rate]
print(type(processor).__module__)
print(json.dumps(settings))
torch.save([dict(batch), dict(videos), dict(features)], sys.argv[1] + "/batches.pt")
"""


def test_a_call_gives_the_batch_keys_of_each_input():
    """Keys differ by input; a missing group must be absent, not empty."""
    processor = tiny_processor(size=8)
    batch = processor(images=[picture(0), picture(1)], text=TEXTS, descriptions=["two dogs", None])
    assert {*batch, *processor(features=[[[0.5, 1.0]]])} == set(processor.model_input_names)
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert batch["input_ids"].shape[0] == len(TEXTS)
    assert set(processor(text="dogs")) == {"input_ids", "attention_mask"}
    assert set(processor(images=picture())) == {"pixel_values"}
    assert set(processor(descriptions="dogs")) == {"description_input_ids", "description_attention_mask"}
    as_lists = processor(text=["dogs"], return_tensors=None)
    assert isinstance(as_lists["input_ids"], list)


def test_a_row_has_the_same_ids_alone_and_in_a_batch():
    """Extra padding must change neither ids nor mask."""
    processor = tiny_processor()
    together = processor(text=TEXTS, descriptions=TEXTS)
    for i, text in enumerate(TEXTS):
        alone = processor(text=[text])
        length = alone["input_ids"].shape[1]
        for prefix in ("", "description_"):
            assert torch.equal(together[f"{prefix}input_ids"][i, :length], alone["input_ids"][0])
            assert together[f"{prefix}attention_mask"][i].tolist()[length:].count(1) == 0


def test_truncation_keeps_the_end_token_of_captions_and_descriptions():
    """Cutting the ids drops [SEP], which the tower has seen at the end of every text."""
    processor = tiny_processor(max_length=6)
    batch = processor(text="dogs " * 30, descriptions=["dogs " * 30])
    for key in ("input_ids", "description_input_ids"):
        assert batch[key].shape == (1, 6)
        assert batch[key][0, -1].item() == processor.tokenizer.sep_token_id


def test_truncation_is_counted_exactly():
    """A text that fits exactly is not truncated; a missing description is not a text."""
    processor = tiny_processor(max_length=6)
    assert processor.truncation_rate == 0.0
    processor(text=["dogs " * 3, "dogs " * 4])  # 5 and 6 tokens
    assert (processor.num_texts, processor.num_truncated) == (2, 0)
    processor(text=["dogs " * 5, "dogs"], descriptions=["dogs " * 9, None, ""])
    assert (processor.num_texts, processor.num_truncated) == (5, 2)
    assert processor.truncation_rate == 2 / 5


def test_left_padding_works():
    """Decoder text towers pad on the left; null rows and truncation must not assume the right."""
    processor = tiny_processor(max_length=6)
    processor.tokenizer.padding_side = "left"
    batch = processor(text=["dogs", "two dogs"], descriptions=[None, "dogs"])
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert batch["input_ids"][0, -1].item() == processor.tokenizer.sep_token_id
    assert batch["description_attention_mask"].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_missing_description_is_a_null_row_and_an_empty_caption_an_error():
    """A missing description has a trained stand-in; an empty query has no answer."""
    processor = tiny_processor()
    batch = processor(descriptions=["dogs", None, "", "  ", "\u200b"])
    assert batch["description_attention_mask"].sum(dim=1).tolist() == [3, 0, 0, 0, 0]
    assert (batch["description_input_ids"][1:] == processor.tokenizer.pad_token_id).all()
    assert processor(descriptions=[None, None])["description_attention_mask"].sum() == 0
    for nothing in ("", "  ", "\u200b"):
        with pytest.raises(ValueError, match=r"text\[1\] must hold at least one token"):
            processor(text=["dogs", nothing])


def test_caption_cleaning_is_off_by_default_and_never_touches_descriptions():
    """Thirty words would cut most descriptions in half."""
    caption = "Two dogs, " + "two " * 40
    plain, cleaning = tiny_processor(), tiny_processor(clean_captions=True, max_words=5)
    expected = plain(text="two dogs two two two")["input_ids"]
    assert torch.equal(cleaning(text=caption)["input_ids"], expected)
    assert plain(text=caption)["input_ids"].shape[1] > 40
    assert torch.equal(
        cleaning(descriptions=[caption])["description_input_ids"],
        plain(descriptions=[caption])["description_input_ids"],
    )


def test_padding_to_a_fixed_length():
    """Export and compilation need one shape."""
    batch = tiny_processor(padding="max_length", max_length=20)(text=["dogs"], descriptions=["two dogs"])
    assert batch["input_ids"].shape == batch["description_input_ids"].shape == (1, 20)
    assert tiny_processor()(text=["dogs"], padding="max_length", max_length=9)["input_ids"].shape == (1, 9)


def test_pictures_of_any_mode_become_rgb_and_upright():
    """Palette, grey and transparent files, and phone photos that carry their rotation as a tag."""
    processor = tiny_processor(size=8)
    image = picture(3, 24, 16)
    modes = [image.convert(mode) for mode in ("L", "RGBA", "P", "CMYK", "1")]
    assert processor(images=modes)["pixel_values"].shape == (5, 3, 8, 8)
    rotated, tag = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    tag[0x0112] = 6  # the camera was turned: the viewer is to rotate by 270 degrees
    buffer = io.BytesIO()
    rotated.save(buffer, format="PNG", exif=tag)
    upright = processor(images=Image.open(buffer))["pixel_values"]
    torch.testing.assert_close(upright, processor(images=image)["pixel_values"])


def test_a_corrupt_image_is_named_by_its_index():
    """PIL opens lazily: without a check the error comes from deep inside, with no index."""
    data = png_bytes(picture(0, 64, 64))
    truncated = Image.open(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(ValueError, match=r"images\[1\] must be a readable image"):
        tiny_processor()(images=[picture(), truncated])


def test_paths_and_addresses_of_pictures_are_opened(tmp_path: Path):
    """Tools hand over what people typed; a turned photo must come upright from there as well."""
    processor = tiny_processor()
    tag = Image.Exif()
    tag[0x0112] = 6
    picture(1).save(tmp_path / "turned.png", exif=tag)
    data = (tmp_path / "turned.png").read_bytes()
    expected = processor(images=[Image.open(tmp_path / "turned.png"), picture(0)])["pixel_values"]
    with hub(tmp_path / "home") as server:
        api = HfApi(token=server.token)
        api.create_repo("owner/pictures")
        api.upload_file(repo_id="owner/pictures", path_or_fileobj=data, path_in_repo="turned.png")
        address = f"{server.url}/owner/pictures/resolve/main/turned.png"
        written_out = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        for name in (str(tmp_path / "turned.png"), address, written_out):
            assert torch.equal(processor(images=[name, picture(0)])["pixel_values"], expected), name
        assert torch.equal(processor(images=address)["pixel_values"], expected[:1])
        asked = len(server.requests)
        # Only `images` are opened: a caption from anywhere must not make this machine ask an address.
        processor(images=[picture(0)], text=[address], descriptions=[address])
        processor(images=[picture(0)], text=[address], text_kwargs={"describes_images": True})
        assert len(server.requests) == asked


def test_a_picture_that_cannot_be_opened_is_named(tmp_path: Path):
    """Of a thousand names one is wrong; the errors below are of many kinds and name neither place nor picture."""
    (tmp_path / "text.png").write_text("no picture")
    with hub(tmp_path / "home") as server:
        gone = f"{server.url}/x.png"
        reasons = {
            str(tmp_path / "absent.png"): "which is no file",
            str(tmp_path / "text.png"): "cannot identify",
            gone: "cannot identify",  # the answer is an error page
            "http://[broken": "cannot be decoded",
            "data:image/png": "cannot be decoded",
        }
        for name, reason in reasons.items():
            with pytest.raises(ValueError, match=rf"images\[1\] must be .*got {re.escape(repr(name))}.*{reason}"):
                tiny_processor()(images=[picture(), name])
    with pytest.raises(ValueError, match=rf"images\[1\] must be .*got {re.escape(repr(gone))}.*refused"):
        tiny_processor()(images=[picture(), gone])
    with pytest.raises(ValueError, match=r"images\[0\] must be a readable image") as refused:
        tiny_processor()(images="data:image/png;base64," + "A" * 100_000)
    assert len(str(refused.value)) < 1000


def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The client waits for ever by default, and so would the program."""
    monkeypatch.setattr(visual_inputs_leccr, "_FETCH_SECONDS", 0.2)
    with hub(tmp_path / "home") as server:
        server.fail("GET /x.png", "stall")
        with pytest.raises(ValueError, match=r"images\[0\] must be a readable image, got .*/x\.png.*timed out"):
            tiny_processor()(images=f"{server.url}/x.png")


def test_wrong_inputs_are_refused():
    """Each of these would otherwise fail far away, or be ignored."""
    processor = tiny_processor()
    with pytest.raises(ValueError, match=r"give the processor images, .* got none"):
        processor()
    with pytest.raises(ValueError, match="text must hold at least one entry"):
        processor(text=[])
    with pytest.raises(ValueError, match="got 1 for 2 images"):
        processor(images=[picture(), picture()], descriptions=["dogs"])
    with pytest.raises(TypeError, match=r"images\[0\] must be a PIL image, a path, a URL or an array, got dict"):
        processor(images={"path": "photo.jpg"})
    with pytest.raises(TypeError, match=r"text\[0\] must be a string"):
        processor(text=[None])
    with pytest.raises(TypeError, match=r"descriptions\[0\] must be a string or None"):
        processor(descriptions=[3])
    with pytest.raises(TypeError, match=r"unknown keyword arguments.*'max_lenght'"):
        processor(text="dogs", max_lenght=8)


def test_wrong_settings_are_refused():
    """A limit beyond the position table is an index error on the first long caption."""
    for settings, message in [
        ({"max_length": 65}, "between 3 .* and 64"),
        ({"max_length": 2}, "between 3"),
        ({"padding": "left"}, "padding"),
        ({"max_words": 0}, "max_words"),
    ]:
        with pytest.raises(ValueError, match=message):
            tiny_processor(**settings)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="padding token"):
        LeccrProcessor(ViTImageProcessorPil(), tokenizer)
    assert tiny_processor().max_length == 64  # the tokenizer's own limit, below the default of 200


@pytest.mark.parametrize("image_processor", [ViTImageProcessorPil, CLIPImageProcessorPil])
def test_settings_and_pixels_survive_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_processor: type):
    """Settings that are not saved fall back to defaults, and the numbers drift."""
    parts = image_processor(size={"height": 12, "width": 12}, crop_size={"height": 12, "width": 12})
    monkeypatch.setattr(LeccrProcessor, "_auto_class", "AutoProcessor")  # as where modeling_leccr is imported
    processor = LeccrProcessor(
        parts, tiny_tokenizer(), max_length=7, clean_captions=True, max_words=4, padding="max_length"
    )
    settings = processor.to_dict()
    processor.save_pretrained(tmp_path)
    again = LeccrProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict() == settings
    assert (again.max_length, again.clean_captions, again.max_words, again.padding) == (7, True, 4, "max_length")
    assert again.image_processor.backend == "pil"
    arguments = {"images": [picture(0), picture(1)], "text": TEXTS[:3], "descriptions": [TEXTS[1], None]}
    before, after = processor(**arguments), again(**arguments)
    for key in before:
        assert torch.equal(before[key], after[key]), key
    assert "num_texts" not in json.loads((tmp_path / "processor_config.json").read_text())


def test_the_saved_folder_loads_in_a_fresh_process_without_this_package(tmp_path: Path, monkeypatch):
    """On the Hub there is only the folder: the code file must be in it and import nothing of ours."""
    monkeypatch.setattr(LeccrProcessor, "_auto_class", None)
    LeccrProcessor.register_for_auto_class("AutoProcessor")
    folder = tmp_path / "model"
    processor = tiny_processor(max_length=20, clean_captions=True, max_words=6, num_frames=2, frame_rate=1.5)
    processor.save_pretrained(folder)
    assert (folder / "processing_leccr.py").is_file()
    picture().save(folder / "picture.png")
    np.save(folder / "features.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    (folder / "clip.mp4").write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "PYTHONSAFEPATH": "1"}
    environment.pop("PYTHONPATH", None)
    # An editable install makes our packages importable from anywhere, so their names are refused.
    block = (
        "import sys\nclass _Block:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('processing', 'modeling_leccr'):\n            raise ImportError(name)\n"
        "sys.meta_path.insert(0, _Block())\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", block + _LOAD_ELSEWHERE, str(folder), json.dumps(TEXTS)],
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    module, settings = process.stdout.strip().splitlines()[-2:]
    assert module.startswith("transformers_modules")
    assert json.loads(settings) == [20, True, 6, "longest", 2, 1.5]
    frame = Image.open(folder / "picture.png")
    batches = [
        processor(images=frame, text=TEXTS, descriptions=[TEXTS[0]]),
        processor(videos=[[frame] * 3, [frame]]),
        processor(features=[str(folder / "features.npy"), [[1.0, 2.0]]]),
    ]
    for here, there in zip(batches, torch.load(folder / "batches.pt"), strict=True):
        assert set(here) == set(there)
        for key in here:
            assert torch.equal(here[key], there[key]), key


def test_the_image_backend_is_the_saved_one(tmp_path: Path, monkeypatch):
    """transformers takes torchvision where it is installed; its resize moves the pixels under a trained model."""
    processor = tiny_processor(size=8)
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["image_backend"] == "pil"
    other = SimpleNamespace(backend="torchvision")
    monkeypatch.setattr(ProcessorMixin, "_get_arguments_from_pretrained", lambda *_, **__: [other, tiny_tokenizer()])
    again = LeccrProcessor.from_pretrained(tmp_path)
    assert again.image_processor.backend == "pil"
    assert torch.equal(again(images=picture())["pixel_values"], processor(images=picture())["pixel_values"])


def test_arrays_pass_through():
    """Frames of a video come as arrays."""
    processor = tiny_processor(size=8)
    array = np.asarray(picture(2))
    assert torch.equal(processor(images=[array])["pixel_values"], processor(images=picture(2))["pixel_values"])
