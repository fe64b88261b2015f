"""The embedded clips as a whole: schema, determinism, held-out split, uniqueness, partners and the noise knobs."""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import datasets
import numpy as np
import pytest

from processing.records import caption_column, check_aligned, check_columns
from processing.scenes import SPLITS, TARGET_LANGUAGES
from processing.scenes.world import COLOURS, SHAPES, TEXTURES, Mention, SceneObject, is_held_out
from processing.scenes_video import ScenesVideoConfig, load_scenes_video, plan_split
from processing.scenes_video.actions import (
    VERBS,
    Clip,
    ClipFacts,
    Event,
    MovingObject,
    disturb_facts,
    is_true,
    middle_scene,
    needs_order,
    play_backwards,
    sample_clip,
    sample_facts,
    tell_all,
)
from processing.scenes_video.language import CLIP_GRAMMARS, write_clip_caption
from processing.video_frames_leccr import FrameSampling, sample_frames
from tests.scenes_parts import digest, digest_elsewhere

SMALL = ScenesVideoConfig(
    train_size=16, validation_size=4, test_size=10, image_size=32, num_frames=6, translation_noise=0.0
)
# Eight captions a clip, so that a comparison of noisy and clean text is not a matter of luck.
WORDY = replace(SMALL, captions_per_item=8, form="features", num_frames=4)


@pytest.fixture(scope="module")
def clips() -> datasets.DatasetDict:
    return load_scenes_video(SMALL)


@pytest.fixture(scope="module")
def numbers() -> datasets.DatasetDict:
    return load_scenes_video(replace(SMALL, form="features"))


@pytest.fixture(scope="module")
def plans():
    return {split: plan_split(ScenesVideoConfig(), split) for split in SPLITS}


def texts_of(split: datasets.Dataset) -> dict[str, list]:
    return {name: list(split[name]) for name in split.column_names if name not in ("video", "features")}


def object_of(verb: str, start=(0, 0), end=(0, 0), *, shape="star", colour="red", new_colour=None) -> MovingObject:
    return MovingObject(SceneObject(shape, colour, "large", "striped", start), verb, end, new_colour)


def test_every_split_has_the_schema_and_the_asked_size(clips, numbers):
    """A reader that expects records.py must take this data set as it takes any other."""
    columns = ["video_id", "description", "caption_en"]
    columns += [caption_column(lang) for lang in TARGET_LANGUAGES]
    columns += [caption_column(lang, translated=True) for lang in TARGET_LANGUAGES]
    assert list(clips) == list(numbers) == list(SPLITS)
    for split, size in zip(SPLITS, (16, 4, 10), strict=True):
        for scenes, visual in ((clips[split], "video"), (numbers[split], "features")):
            check_columns(scenes.column_names, [visual, *columns], split=split)
            assert sorted(scenes.column_names) == sorted([visual, *columns])
            assert len(set(scenes["video_id"])) == len(scenes) == size
        for row in clips[split]:
            check_aligned(row, TARGET_LANGUAGES)
            assert row["video"]["path"] is None and row["video"]["bytes"][4:8] == b"ftyp"
            assert all(len(row[caption_column(lang)]) == 2 for lang in ("en", *TARGET_LANGUAGES))


def test_features_are_those_of_the_frames_that_the_clips_show(clips, numbers):
    """The two forms are one data set: other texts or other frames would make them two."""
    from processing.scenes_video.features import FEATURE_DIM, frame_features

    for split in SPLITS:
        assert texts_of(clips[split]) == texts_of(numbers[split])
    for row, other in zip(clips["test"], numbers["test"], strict=True):
        frames = sample_frames(row["video"], FrameSampling(num_frames=99))
        decoded = np.stack([frame_features(frame) for frame in frames])
        given = np.array(other["features"], dtype=np.float32)
        assert given.shape == decoded.shape == (6, FEATURE_DIM)
        assert np.abs(given - decoded).mean() < 0.05


def test_partners_show_the_same_frames_in_the_other_order(numbers):
    """Only where the frames are the same is it their order that tells the two clips apart."""
    found = 0
    for split in SPLITS:
        rows = [np.array(cell) for cell in numbers[split]["features"]]
        for position, item in enumerate(plan_split(SMALL, split)):
            if item.reverse_of is not None:
                found += 1
                assert item.reverse_of == position - 1
                np.testing.assert_array_equal(rows[position], rows[item.reverse_of][::-1])
                assert (rows[position] != rows[item.reverse_of]).any()
    assert found >= 6


def test_more_than_half_of_the_clips_of_each_split_have_a_partner(plans):
    """Without rivals of the same content, a caption is found by its objects and order is worth nothing."""
    for split, items in plans.items():
        partners = [(item, items[item.reverse_of]) for item in items if item.reverse_of is not None]
        assert 0.5 <= 2 * len(partners) / len(items) <= 0.7, split
        for item, original in partners:
            assert original.reverse_of is None and item.clip == play_backwards(original.clip) != original.clip
            assert all(caption.needs_order for caption in item.captions + original.captions)
            assert all(not is_true(caption.facts, original.clip) for caption in item.captions)
            assert all(not is_true(caption.facts, item.clip) for caption in original.captions)
        needing = [{caption.needs_order for caption in item.captions} for item in items]
        assert needing == [{item.clip.is_ordered} for item in items]
        assert 0.65 <= needing.count({True}) / len(items) <= 0.8


def test_each_caption_is_true_of_its_own_clip_only(plans):
    """A caption that fits two test clips puts a ceiling on recall; here brute force over all pairs agrees."""
    for split in ("validation", "test"):
        items = plans[split]
        for position, item in enumerate(items):
            for caption in item.captions:
                assert [i for i, other in enumerate(items) if is_true(caption.facts, other.clip)] == [position]


def test_captions_stay_unique_in_a_larger_split():
    """What is played backwards cannot be drawn again, so its partner is drawn with an eye to both."""
    items = plan_split(ScenesVideoConfig(test_size=1000), "test")
    for position, item in enumerate(items):
        if item.reverse_of is not None:
            for caption in item.captions:
                assert [i for i, other in enumerate(items) if is_true(caption.facts, other.clip)] == [position]


def test_training_captions_are_nearly_all_true_of_one_clip(plans):
    """False negatives in a training batch teach the model to tell equals apart."""
    items = plans["train"]
    checked = [caption for item in items[-60:] for caption in item.captions]
    ambiguous = [c for c in checked if sum(is_true(c.facts, other.clip) for other in items) > 1]
    assert len(ambiguous) <= 0.02 * len(checked)


def test_different_clips_have_different_test_captions(plans):
    """Two rows with one caption would both be right, and one of them counted as wrong."""
    for language in CLIP_GRAMMARS:
        owners: dict[str, int] = {}
        for row, item in enumerate(plans["test"]):
            for caption in item.captions:
                text = write_clip_caption(language, caption.facts, caption.telling)
                assert owners.setdefault(text, row) == row


def test_held_out_combinations_never_occur_in_training(plans):
    """Else the test split measures memory; an object that turns is a combination in both of its colours."""

    def combinations(split: str) -> set[tuple[str, str, str]]:
        objects = [item for planned in plans[split] for item in planned.clip.objects]
        return {(o.thing.shape, colour, o.thing.texture) for o in objects for colour in o.colours}

    assert not any(is_held_out(*combination) for combination in combinations("train"))
    for split in ("validation", "test"):
        assert all(is_held_out(*combination) for combination in combinations(split))
    everything = set(product(SHAPES, COLOURS, TEXTURES))
    assert combinations("train") == {combination for combination in everything if not is_held_out(*combination)}
    assert len(combinations("test")) >= 0.95 * len(everything) / 4


def test_every_verb_is_told_often_enough_to_be_learnt(plans):
    """A verb that training hardly tells cannot be asked for in the test."""
    for split in SPLITS:
        told = [event.verb for item in plans[split] for c in item.source_captions for event in c.facts.events]
        rarest = min(VERBS, key=told.count)
        assert told.count(rarest) >= 0.015 * len(told), (split, rarest)


def test_the_human_voice_differs_from_the_translation_but_shares_its_words(plans):
    """Equal wording makes retrieval trivial; unseen words make it impossible for towers trained from scratch."""

    def written(language: str, captions) -> list[str]:
        return [write_clip_caption(language, caption.facts, caption.telling) for caption in captions]

    for lang in TARGET_LANGUAGES:
        unit = "." if lang in ("zh", "ja") else r"[\w'-]+"
        source = written(lang, [c for item in plans["train"][:600] for c in item.source_captions])
        human = written(lang, [c for item in plans["test"] for c in item.human_captions])
        heard = {word for text in source for word in re.findall(unit, text.lower())}
        asked = [word for text in human for word in re.findall(unit, text.lower())]
        assert sum(word not in heard for word in asked) <= 0.01 * len(asked)
        # Of two short sentences about one object, chance makes a pair alike.
        assert len(set(source) & set(human)) <= 0.005 * len(set(human))


def true_stories() -> Iterator[tuple[ClipFacts, Clip]]:
    rng = random.Random(0)
    for number in range(400):
        clip = sample_clip(rng, held_out=number % 2 == 0, ordered=number % 3 > 0)
        yield sample_facts(clip, rng), clip


def test_facts_are_true_of_their_clip_and_of_its_reverse_only_if_no_verb_needs_order():
    """`is_true` is the oracle of uniqueness; `needs_order` decides which captions a benchmark of order asks."""
    for facts, clip in true_stories():
        assert is_true(facts, clip) and is_true(tell_all(clip), clip)
        assert is_true(facts, play_backwards(clip)) != needs_order(facts)
        assert needs_order(facts) == clip.is_ordered
        assert play_backwards(play_backwards(clip)) == clip
        # A circle that spins looks like one that stands still.
        assert not any((item.thing.shape, item.verb) == ("circle", "spins") for item in clip.objects)
        if facts.background:
            assert not is_true(facts, replace(clip, background="snow" if clip.background != "snow" else "sky"))


def test_facts_with_one_wrong_part_are_false():
    """An oracle that always says yes would pass every test of true facts."""
    star = object_of("moves_left", (0, 1), (0, -1))
    clip = Clip((star, object_of("stands_still", (1, -1), (1, -1), shape="heart", colour="blue")), "snow")
    right = Event(Mention("star", "red", "large", "striped"), "moves_left")
    wrong = [
        replace(right, verb=verb) for verb in ("moves_right", "moves_up", "grows", "appears", "spins", "stands_still")
    ]
    wrong += [
        replace(right, subject=replace(right.subject, **{name: value}))
        for name, value in (("shape", "moon"), ("colour", "pink"), ("size", "small"), ("texture", "plain"))
    ]
    wrong += [replace(right, verb="turns", new_colour="green"), replace(right, subject=Mention("heart", "blue"))]
    heart = Event(Mention("heart", "blue"), "stands_still")
    assert is_true(ClipFacts((right, heart), "snow"), clip)
    assert not any(is_true(ClipFacts((event, heart), "snow"), clip) for event in wrong)
    assert not is_true(ClipFacts((right, replace(heart, verb="blinks")), "snow"), clip)


def test_truth_is_read_generously():
    """Each of these is an honest reading of the clip, so no other clip of the split may be described by it."""
    heart = object_of("stands_still", (0, 1), (0, 1), shape="heart", colour="blue")
    clip = Clip((object_of("approaches", (0, -1), (0, 0)), heart), "snow")
    star, there = Mention("star", "red"), Mention("heart", "blue")
    assert is_true(ClipFacts((Event(star, "approaches", there),)), clip)
    assert is_true(ClipFacts((Event(star, "moves_right"),)), clip)
    assert not is_true(ClipFacts((Event(star, "leaves", there),)), clip)
    assert not is_true(ClipFacts((Event(there, "moves_right"),)), clip)
    still = replace(clip, objects=(object_of("spins", (0, -1), (0, -1)), heart))
    assert not any(is_true(ClipFacts((Event(star, verb, there),)), still) for verb in ("approaches", "leaves"))
    assert not is_true(ClipFacts((Event(star, "approaches", star),)), clip)
    blinks = Clip((object_of("blinks"),), "snow")
    for verb, holds in {"appears": True, "disappears": True, "stands_still": True, "spins": False}.items():
        assert is_true(ClipFacts((Event(star, verb),)), blinks) == holds
    turns = Clip((object_of("turns", new_colour="blue"),), "snow")
    assert is_true(ClipFacts((Event(star, "turns", None, "blue"),)), turns)
    assert not is_true(ClipFacts((Event(Mention("star", "blue"), "turns", None, "red"),)), turns)
    assert is_true(ClipFacts((Event(Mention("star", "blue"), "stands_still"),)), turns)
    grows = Clip((object_of("grows"),), "snow")
    assert is_true(ClipFacts((Event(Mention("star", "red", "small"), "grows"),)), grows)


def test_descriptions_fit_the_clip_played_backwards_and_name_no_verb(plans):
    """A description that told the motion, or where a mover began, would leave nothing for the frames to add."""
    for item in plans["test"][:100]:
        rng, other = random.Random(0), random.Random(0)
        assert middle_scene(item.clip, rng) == middle_scene(play_backwards(item.clip), other)
    texts = [
        text for split in SPLITS for text in load_scenes_video(replace(WORDY, train_size=60))[split]["description"]
    ]
    words = set(re.findall("[a-z]+", " ".join(texts).lower()))
    verbs = "moves goes up down grows shrinks appears disappears approaches away turns spins blinks shakes still"
    assert not words & set(verbs.split())
    assert 0 < sum("frames" in text or "moving" in text for text in texts) < 0.35 * len(texts)
    assert all(text.startswith("The video shows") and 30 <= len(text.split()) <= 75 for text in texts)


def test_equal_configs_give_equal_bytes_in_a_process_with_another_hash_seed(clips):
    """`hash()` of a string, the order of a set or the threads of the encoder would change the data from run to run."""
    assert digest_elsewhere("tests.test_scenes_video", "load_scenes_video") == digest(clips)


def test_another_seed_is_another_data_set(numbers):
    """A seed that reaches nothing would make every repetition of an experiment the same."""
    other = load_scenes_video(replace(SMALL, seed=1, form="features"))
    assert all(a != b for a, b in zip(other["test"]["description"], numbers["test"]["description"], strict=True))


def test_a_larger_split_begins_with_the_smaller_one(numbers):
    """A quick run on fewer items should be a part of the full run, also where it cuts a pair in two."""
    larger = load_scenes_video(replace(SMALL, test_size=11, train_size=3, form="features"))
    assert texts_of(larger["test"].select(range(10))) == texts_of(numbers["test"])
    assert larger["test"][9]["features"] == numbers["test"][9]["features"]
    assert texts_of(larger["train"]) == texts_of(numbers["train"].select(range(3)))
    assert list(larger["train"]["features"]) == list(numbers["train"]["features"])[:3]


def test_only_the_asked_languages_have_columns_and_they_read_the_same(numbers):
    """A recipe for one language should not pay for five, nor get other captions."""
    alone = load_scenes_video(replace(SMALL, languages=["ja"], form="features"))
    assert sorted(name for name in alone["train"].column_names if name.startswith("caption")) == [
        "caption_en",
        "caption_ja",
        "caption_ja_mt",
    ]
    assert list(alone["train"]["caption_ja_mt"]) == list(numbers["train"]["caption_ja_mt"])


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
    clean, noisy = (load_scenes_video(replace(WORDY, **{knob: noise})) for noise in (0.0, 1.0))
    before, after = clean["train"], noisy["train"]
    assert {name for name in before.column_names if list(before[name]) != list(after[name])} == changed
    for name in changed:
        assert not any(a == b for a, b in zip(before[name], after[name], strict=True))
    # A query of validation or test is what a person asks; a wrong question has no right answer.
    assert list(clean["test"]["caption_en"]) == list(noisy["test"]["caption_en"])


def test_guidance_noise_makes_each_part_wrong_and_keeps_a_caption_that_can_be_worded():
    """A wrong verb must be of the same kind: `turns` without a colour or `leaves` without another has no words."""
    rng = random.Random(0)
    for facts, clip in true_stories():
        assert disturb_facts(facts, 0.0, rng) is facts
        wrong = disturb_facts(facts, 1.0, rng)
        assert not is_true(wrong, clip)
        for event, other in zip(facts.events, wrong.events, strict=True):
            assert (event.other is None, event.new_colour is None) == (other.other is None, other.new_colour is None)
            assert event.verb != other.verb or (event.verb == "turns" and event.new_colour != other.new_colour)
            assert event.subject.shape != other.subject.shape and event.subject.colour != other.subject.colour


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"train_size": 0}, ValueError, "train_size must be at least 1, got 0"),
        ({"image_size": 16}, ValueError, "image_size must be at least 32"),
        ({"image_size": 65}, ValueError, "image_size must be even, .* got 65"),
        ({"num_frames": 3}, ValueError, "num_frames must be at least 4, got 3"),
        ({"num_frames": 8.0}, TypeError, "num_frames must be an int"),
        ({"captions_per_item": 0}, ValueError, "captions_per_item must be at least 1"),
        ({"form": "frames"}, ValueError, r"form must be one of \['clips', 'features'\], got 'frames'"),
        ({"translation_noise": 1.5}, ValueError, r"translation_noise .* \[0, 1\], got 1.5"),
        ({"description_noise": -0.1}, ValueError, "description_noise"),
        ({"guidance_noise": float("nan")}, ValueError, "guidance_noise"),
        ({"languages": ("de", "xx")}, ValueError, "languages must be different codes of .*'xx'"),
        ({"languages": "de"}, TypeError, "languages must be a list"),
    ],
)
def test_a_bad_config_is_refused_with_the_name_of_the_field(change, error, message):
    """A wrong size or a typo in a language should not surface minutes later, inside the trainer."""
    with pytest.raises(error, match=message):
        ScenesVideoConfig(**change)


def test_an_unknown_split_is_refused():
    """`dev` in place of `validation` should name the splits that exist."""
    with pytest.raises(ValueError, match="split must be one of"):
        plan_split(SMALL, "dev")
