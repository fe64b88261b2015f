"""The embedded data set as a whole: schema, determinism, the held-out split, uniqueness and the noise knobs."""

import io
import itertools
import re
from dataclasses import replace

import datasets
import pytest
from PIL import Image

from processing.records import caption_column, check_aligned, check_columns
from processing.scenes import SPLITS, TARGET_LANGUAGES, ScenesConfig, load_scenes, plan_split
from processing.scenes.world import COLOURS, SHAPES, SIZES, TEXTURES, is_held_out, is_true
from tests.scenes_parts import digest, digest_elsewhere

SMALL = ScenesConfig(train_size=24, validation_size=6, test_size=12, image_size=48, translation_noise=0.0)
# Eight captions a picture, so that a comparison of noisy and clean text is not a matter of luck.
WORDY = replace(SMALL, captions_per_item=8)


@pytest.fixture(scope="module")
def small() -> datasets.DatasetDict:
    return load_scenes(SMALL)


@pytest.fixture(scope="module")
def default_plan():
    return {split: plan_split(ScenesConfig(), split) for split in SPLITS}


def texts_of(split: datasets.Dataset) -> dict[str, list]:
    return {name: list(split[name]) for name in split.column_names if name != "image"}


def test_every_split_has_the_schema_and_the_asked_size(small):
    """A reader that expects records.py must take this data set as it takes any other."""
    columns = ["image", "image_id", "description", "caption_en"]
    columns += [caption_column(lang) for lang in TARGET_LANGUAGES]
    columns += [caption_column(lang, translated=True) for lang in TARGET_LANGUAGES]
    assert list(small) == list(SPLITS)
    for split, size in zip(SPLITS, (24, 6, 12), strict=True):
        check_columns(small[split].column_names, columns, split=split)
        assert sorted(small[split].column_names) == sorted(columns)
        assert len(small[split]) == size
        assert len(set(small[split]["image_id"])) == size
        for row in small[split]:
            check_aligned(row, TARGET_LANGUAGES)
            assert row["image"].size == (48, 48) and row["image"].mode == "RGB"
            assert all(len(row[caption_column(lang)]) == 2 for lang in ("en", *TARGET_LANGUAGES))


def test_pictures_are_embedded_as_png_bytes(small):
    """A path in place of bytes would break a push to the Hub."""
    stored = small["test"].cast_column("image", datasets.Image(decode=False))[0]["image"]
    assert stored["path"] is None
    assert Image.open(io.BytesIO(stored["bytes"])).format == "PNG"


def test_only_the_asked_languages_have_columns():
    """A recipe for one language should not pay for five."""
    scenes = load_scenes(replace(SMALL, train_size=2, validation_size=1, test_size=1, languages=["cs"]))
    assert sorted(name for name in scenes["train"].column_names if name.startswith("caption")) == [
        "caption_cs",
        "caption_cs_mt",
        "caption_en",
    ]


def test_a_language_reads_the_same_with_and_without_the_others(small):
    """A language's generator must not depend on which other languages are made."""
    alone = load_scenes(replace(SMALL, languages=("ja",)))
    assert list(alone["train"]["caption_ja"]) == list(small["train"]["caption_ja"])
    assert list(alone["train"]["caption_ja_mt"]) == list(small["train"]["caption_ja_mt"])


def test_equal_configs_give_equal_bytes_in_a_process_with_another_hash_seed(small):
    """`hash()` of a string or the order of a set would change the data from run to run."""
    assert digest_elsewhere("tests.test_scenes", "load_scenes") == digest(small)


def test_another_seed_is_another_data_set(small):
    """A seed that reaches nothing would make every repetition of an experiment the same."""
    other = load_scenes(replace(SMALL, seed=1))
    assert all(a != b for a, b in zip(other["test"]["description"], small["test"]["description"], strict=True))


def test_a_larger_split_begins_with_the_smaller_one(small):
    """A quick run on fewer items should be a part of the full run, and no split should disturb another."""
    larger = load_scenes(replace(SMALL, test_size=20, train_size=3))
    assert texts_of(larger["test"].select(range(12))) == texts_of(small["test"])
    assert larger["test"][11]["image"].tobytes() == small["test"][11]["image"].tobytes()
    assert texts_of(larger["train"]) == texts_of(small["train"].select(range(3)))


def test_held_out_combinations_never_occur_in_training(default_plan):
    """Else the test split measures memory; and a single value missing from training cannot be learnt at all."""
    combinations = {
        split: {(o.shape, o.colour, o.texture) for item in items for o in item.scene.objects}
        for split, items in default_plan.items()
    }
    assert not any(is_held_out(*combination) for combination in combinations["train"])
    for split in ("validation", "test"):
        assert all(is_held_out(*combination) for combination in combinations[split])
        assert not combinations[split] & combinations["train"]
    everything = set(itertools.product(SHAPES, COLOURS, TEXTURES))
    assert combinations["train"] == {c for c in everything if not is_held_out(*c)}
    assert len(combinations["test"]) == len(everything) / 4
    for first, second in ((0, 1), (0, 2), (1, 2)):
        pairs = {(c[first], c[second]) for c in combinations["train"]}
        assert pairs == {(c[first], c[second]) for c in everything}
    assert {o.size for item in default_plan["train"] for o in item.scene.objects} == set(SIZES)


def test_each_caption_is_true_of_its_own_picture_only(default_plan):
    """A caption that fits two test pictures puts a ceiling on recall; here brute force over all pairs agrees."""
    for split in ("validation", "test"):
        items = default_plan[split]
        for position, item in enumerate(items):
            for caption in item.captions:
                true_of = [index for index, other in enumerate(items) if is_true(caption.facts, other.scene)]
                assert true_of == [position]
    assert len({item.scene for item in default_plan["test"]}) == 400


def test_training_captions_are_nearly_all_true_of_one_picture(default_plan):
    """False negatives in a training batch teach the model to tell equals apart."""
    items = default_plan["train"]
    checked = [(item, caption) for item in items[:60] for caption in item.captions]
    ambiguous = [c for item, c in checked if sum(is_true(c.facts, other.scene) for other in items) > 1]
    assert len(ambiguous) <= 0.02 * len(checked)


def test_no_caption_tells_everything(default_plan):
    """A caption that equals the description in content leaves nothing for the picture to add."""
    for item in default_plan["test"]:
        for caption in item.captions:
            told = sum(bool(value) for m in caption.facts.mentions for value in (m.shape, m.colour, m.size, m.texture))
            told += bool(caption.facts.background)
            assert told < 4 * len(item.scene.objects) + 1


def test_different_scenes_have_different_test_captions(small):
    """Two rows with one caption would both be right, and one of them counted as wrong."""
    for lang in ("en", *TARGET_LANGUAGES):
        owners: dict[str, int] = {}
        for row, captions in enumerate(small["test"][caption_column(lang)]):
            for caption in captions:
                assert owners.setdefault(caption, row) == row


def test_the_human_voice_differs_from_the_translation_but_shares_its_words():
    """Equal wording makes retrieval trivial; unseen words make it impossible for towers trained from scratch."""
    scenes = load_scenes(ScenesConfig(train_size=400, validation_size=1, test_size=50, image_size=32))
    for lang in TARGET_LANGUAGES:
        unit = "." if lang in ("zh", "ja") else r"[\w'-]+"
        heard = {
            w
            for captions in scenes["train"][f"caption_{lang}_mt"]
            for c in captions
            for w in re.findall(unit, c.lower())
        }
        asked = [
            w for captions in scenes["test"][f"caption_{lang}"] for c in captions for w in re.findall(unit, c.lower())
        ]
        assert sum(word not in heard for word in asked) <= 0.01 * len(asked)
        translated = {c for captions in scenes["train"][f"caption_{lang}_mt"] for c in captions}
        assert not translated & {c for captions in scenes["test"][f"caption_{lang}"] for c in captions}


def test_descriptions_are_paragraphs_of_forty_to_seventy_words(small):
    """A description as short as a caption has nothing that slots could pick apart."""
    lengths = [len(text.split()) for split in SPLITS for text in small[split]["description"]]
    assert min(lengths) >= 40 and max(lengths) <= 70


@pytest.mark.parametrize(
    ("knob", "changed"),
    [
        ("translation_noise", {caption_column(lang, translated=True) for lang in TARGET_LANGUAGES}),
        ("description_noise", {"description"}),
        ("guidance_noise", {"caption_en"}),
    ],
)
def test_a_noise_knob_changes_its_own_columns_only(knob, changed):
    """Experiments that compare noise levels need everything else to stay as it was."""
    clean, noisy = (load_scenes(replace(WORDY, **{knob: noise}))["train"] for noise in (0.0, 1.0))
    differing = {name for name in clean.column_names if name != "image" and list(clean[name]) != list(noisy[name])}
    assert differing == changed
    assert clean[5]["image"].tobytes() == noisy[5]["image"].tobytes()
    for name in changed:
        assert not any(a == b for a, b in zip(clean[name], noisy[name], strict=True))


def test_guidance_noise_spares_the_queries_of_validation_and_test():
    """There `caption_en` is what a person asks; a wrong question has no right answer."""
    clean, noisy = (load_scenes(replace(SMALL, guidance_noise=noise)) for noise in (0.0, 1.0))
    assert list(clean["test"]["caption_en"]) == list(noisy["test"]["caption_en"])
    assert list(clean["train"]["caption_en"]) != list(noisy["train"]["caption_en"])


def test_more_noise_keeps_the_mistakes_of_less_noise():
    """Nested mistakes make a noise sweep smooth at one seed."""
    shares = []
    for noise in (0.0, 0.1, 0.4):
        scenes = load_scenes(replace(WORDY, translation_noise=noise))
        shares.append([c for captions in scenes["train"]["caption_de_mt"] for c in captions])
    kept = [[a == b for a, b in zip(shares[0], other, strict=True)] for other in shares[1:]]
    assert all(little or not much for little, much in zip(*kept, strict=True))
    assert sum(kept[1]) < sum(kept[0]) < len(shares[0])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_size": 0}, ValueError, "train_size must be at least 1, got 0"),
        ({"test_size": -3}, ValueError, "test_size must be at least 1, got -3"),
        ({"image_size": 16}, ValueError, "image_size must be at least 32"),
        ({"captions_per_item": 0}, ValueError, "captions_per_item must be at least 1"),
        ({"train_size": 2.5}, TypeError, "train_size must be an int"),
        ({"translation_noise": 1.5}, ValueError, r"translation_noise .* \[0, 1\], got 1.5"),
        ({"description_noise": -0.1}, ValueError, "description_noise"),
        ({"guidance_noise": float("nan")}, ValueError, "guidance_noise"),
        ({"languages": ("de", "xx")}, ValueError, "languages must be different codes of .*'xx'"),
        ({"languages": ("de", "de")}, ValueError, "languages must be different"),
        ({"languages": ("en",)}, ValueError, "languages must be different codes"),
        ({"languages": ()}, ValueError, "at least one"),
        ({"languages": "de"}, TypeError, "languages must be a list"),
    ],
)
def test_a_bad_config_is_refused_with_the_name_of_the_field(change, error, message):
    """A wrong size or a typo in a language should not surface minutes later, inside the trainer."""
    with pytest.raises(error, match=message):
        ScenesConfig(**change)


def test_an_unknown_split_is_refused():
    """`dev` in place of `validation` should name the splits that exist."""
    with pytest.raises(ValueError, match="split must be one of"):
        plan_split(SMALL, "dev")
