"""Statistics of texts: words, columns, duplicates, languages, and whether descriptions say more than captions."""

import builtins
import math
import random
from collections import Counter

import datasets
import numpy as np
import pytest

from processing.novelty import DescriptionTally, compare, compare_with_a_further_caption
from processing.quality import VOCABULARY_TOKENS, ColumnTally, describe_lengths, inspect_texts
from processing.records import schema_features, text_columns, texts_of
from processing.words import STOP_WORDS, content_words, split_words, stem

COLUMNS = ("image_id", "description", "caption_en", "caption_de_mt", "caption_de_mt_flag", "caption_de_mt_similarity")


def make_rows():
    """Three items; the second has no description and a refused translation, the third no text at all."""
    return [
        {
            "image_id": "a",
            "description": "A brown dog runs on wet sand.",
            "caption_en": ["A dog runs.", "The dogs are running"],
            "caption_de_mt": ["Ein Hund rennt.", "Die Hunde rennen"],
            "caption_de_mt_flag": ["ok", "ok"],
            "caption_de_mt_similarity": [80.4, 60.0],
        },
        {
            "image_id": "b",
            "description": None,
            "caption_en": ["a  DOG runs", "  "],
            "caption_de_mt": ["ein Hund, rennt!", None],
            "caption_de_mt_flag": ["ok", "empty"],
            "caption_de_mt_similarity": [70.0, None],
        },
        {
            "image_id": "c",
            "description": "  ",
            "caption_en": [],
            "caption_de_mt": None,
            "caption_de_mt_flag": None,
            "caption_de_mt_similarity": None,
        },
    ]


def make_split(rows=None, columns=COLUMNS):
    rows = [{name: row[name] for name in columns} for row in rows or make_rows()]
    return datasets.Dataset.from_list(rows, features=schema_features(columns))


def inspect(*splits, **options):
    return inspect_texts({f"split{i}": split for i, split in enumerate(splits)}, progress=False, **options)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog's T-shirt, 2 ｃats!", ["a", "dog", "s", "t", "shirt", "2", "cats"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("...", []),
    ],
)
def test_words_are_runs_of_letters_digits_and_marks(text, words):
    """A pattern without marks takes Hindi words apart; one without folding sees two words in ｃats and cats."""
    assert split_words(text) == words


def test_a_language_without_spaces_is_counted_in_characters():
    """Its captions would be one word each, and every caption a new one."""
    assert split_words("两只狗， 2！", has_spaces=False) == ["两", "只", "狗", "2"]


@pytest.mark.parametrize(
    "words",
    [
        ("dog", "dogs"), ("run", "runs", "running"), ("ride", "rides", "riding"), ("glass", "glasses"),
        ("baby", "babies"), ("man", "men"), ("house", "houses"), ("watch", "watches", "watching", "watched"),
        ("fall", "falls", "falling"), ("bus", "buses"), ("tree", "trees"), ("see", "sees", "seeing"),
    ],
)  # fmt: skip
def test_forms_of_a_word_have_one_stem(words):
    """Otherwise "two dogs run" would be news beside "a dog is running"."""
    assert len({stem(word) for word in words}) == 1


@pytest.mark.parametrize("word", ["string", "red", "king", "bed", "grass", "bus"])
def test_an_ending_that_is_part_of_the_word_stays(word):
    """A stem without a vowel, or of two letters, would fall together with others."""
    assert stem(word) == word


def test_content_words_leave_function_words_out():
    """A description is longer, so it would win by its articles alone."""
    assert content_words("There are the two Dogs on top of a t-shirt; it's x") == {
        "two", "dog", "top", "shirt"
    }  # fmt: skip
    assert {"the", "on", "of"} <= STOP_WORDS


def test_lengths_match_the_sorted_list():
    """A histogram is easily read one place beside the percentile."""
    generator = random.Random(0)
    for size in (1, 2, 19, 20, 21, 100, 333):
        values = sorted(generator.randrange(50) for _ in range(size))
        found = describe_lengths(Counter(values))
        assert found["mean"] == pytest.approx(sum(values) / size)
        for name, percent in (("median", 50), ("p5", 5), ("p95", 95)):
            assert found[name] == values[math.ceil(percent * size / 100) - 1], (size, name)


def test_text_columns_are_those_of_the_schema_with_their_kind():
    """A flag column or a stranger counted as captions would spoil every rate."""
    names = ["image", "description", "caption_zh_mt", "caption_zh_mt_flag", "caption_zh", "caption_zh_mt2", "note"]
    assert text_columns(names) == {
        "description": ("en", "description"),
        "caption_zh_mt": ("zh", "translation"),
        "caption_zh": ("zh", "human"),
    }
    assert text_columns(["caption_en", "caption_en_flag"]) == {"caption_en": ("en", "partly_generated")}
    assert [texts_of("description", cell) for cell in ("x", None)] == [["x"], [None]]
    assert [texts_of("caption_zh", cell) for cell in (["x", None], [], None)] == [["x", None], [], []]


def test_a_column_is_counted_by_hand():
    """Items, entries and texts are three denominators; mixed up, an empty rate means nothing."""
    columns = inspect(make_split())["columns"]
    english, german, described = columns["caption_en"], columns["caption_de_mt"], columns["description"]
    assert (english["items"], english["items_without_text"], english["texts"], english["empty"]) == (3, 1, 3, 1)
    assert english["empty_rate"] == 1 / 4
    assert (german["items_without_text"], german["texts"], german["empty"]) == (1, 3, 1)
    assert (described["items_without_text"], described["texts"], described["empty"]) == (2, 1, 2)
    # "A dog runs." and "a  DOG runs" are one text; both of their items have it.
    assert english["duplicates"] == {"text_rate": 2 / 3, "item_rate": 2 / 3}
    assert english["words"]["mean"] == pytest.approx(10 / 3)
    lengths = {"mean": pytest.approx((11 + 20 + 11) / 3), "median": 11, "p5": 11, "p95": 20}
    assert english["characters"] == lengths
    # a, dog, runs, the, dogs, are, running
    assert english["vocabulary"] == {"unit": "word", "tokens": 10, "types": 7, "type_token_ratio": 0.7}
    assert german["flags"] == {"ok": 3, "empty": 1}
    assert german["similarity"] == {"mean": 70.0, "median": 70, "p5": 60, "p95": 80}
    assert (english["kind"], german["kind"], described["kind"]) == ("human", "translation", "description")
    assert "flags" not in english


def test_duplicates_match_the_loop_oracle():
    """Counting by hashes must find what comparing every pair finds."""
    generator = random.Random(1)
    rows = [[f"w{generator.randrange(12)}" for _ in range(generator.randrange(1, 4))] for _ in range(12)]
    tally = ColumnTally("en", "human", max_sample=5)
    for row in rows:
        tally.add(list(row))
    flat = [(item, text) for item, row in enumerate(rows) for text in row]
    double = [
        item for i, (item, text) in enumerate(flat) if any(text == other for j, (_, other) in enumerate(flat) if j != i)
    ]
    assert 0 < len(double) < len(flat)
    expected = {"text_rate": len(double) / len(flat), "item_rate": len(set(double)) / len(rows)}
    assert tally.summary()["duplicates"] == pytest.approx(expected)


def test_splits_are_measured_together_and_a_column_may_be_missing_in_one():
    """A test split without translations is normal, and its items are not items without a text."""
    both = inspect(make_split(), make_split(columns=("image_id", "caption_en")))
    assert both["rows"] == {"split0": 3, "split1": 3}
    assert both["columns"]["caption_en"]["texts"] == 6
    assert both["columns"]["caption_en"]["duplicates"]["text_rate"] == 1
    assert both["columns"]["caption_de_mt"] == inspect(make_split())["columns"]["caption_de_mt"]


def test_pictures_are_not_opened(tmp_path):
    """Decoding a picture for each caption would take hours; a broken one must not matter to the texts."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    features = schema_features(["image", "image_id", "caption_en"])
    row = {"image": str(tmp_path / "broken.png"), "image_id": "a", "caption_en": ["a dog"]}
    assert inspect(datasets.Dataset.from_list([row], features=features))["columns"]["caption_en"]["texts"] == 1


def test_the_sample_is_fair_seeded_and_bounded():
    """The first texts of a data set are often of one kind."""
    hits = np.zeros(40)
    for seed in range(400):
        tally = ColumnTally("en", "human", max_sample=10, seed=seed)
        for number in range(40):
            tally.add([f"text {number}"])
        sample = tally.sample()
        assert len(set(sample)) == 10
        hits[[int(text.split()[1]) for text in sample[:5]]] += 1
    # 400 * 5 / 40 = 50 each, standard deviation 6.6.
    assert hits.min() > 25
    assert hits.max() < 80
    again = ColumnTally("en", "human", max_sample=10, seed=399)
    for number in range(40):
        again.add([f"text {number}"])
    assert again.sample() == sample


def test_the_vocabulary_is_counted_on_one_size():
    """A ratio over all words falls with the size of the data set, so two data sets could not be compared."""
    generator = random.Random(0)
    rows = [[" ".join(f"w{generator.randrange(3000)}" for _ in range(10))] for _ in range(4000)]
    ratios = []
    for part in (rows[:2000], rows):
        tally = ColumnTally("en", "human", max_sample=5000)
        for row in part:
            tally.add(row)
        vocabulary = tally.summary()["vocabulary"]
        assert vocabulary["tokens"] == VOCABULARY_TOKENS
        ratios.append(vocabulary["type_token_ratio"])
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)


def test_the_language_of_each_column_is_identified():
    """English left in a German column must show."""
    pytest.importorskip("py3langid")
    german = ["Ein brauner Hund rennt über den nassen Sand am Meer.", "Zwei Kinder spielen auf einer grünen Wiese."]
    english = ["Two children are playing with their dog in the garden behind the house."]
    rows = [{"image_id": str(i), "caption_de_mt": german if i else german[:1] + english} for i in range(2)]
    found = inspect(make_split(rows, ("image_id", "caption_de_mt")))["columns"]["caption_de_mt"]["language_id"]
    assert found == {"texts": 4, "expected_rate": 0.75, "found": {"de": 3, "en": 1}}


def test_what_nobody_flagged_is_not_ok():
    """Captions of people stay beside generated ones with null flags; counted as ok, they would hide the faults."""
    rows = [
        {"description": "a dog", "description_flag": None, "caption_en": ["a dog", "2"], "caption_en_flag": [None] * 2},
        {"description": None, "description_flag": "refusal", "caption_en": None, "caption_en_flag": None},
    ]
    columns = inspect(make_split(rows, ("description", "description_flag", "caption_en", "caption_en_flag")))["columns"]
    assert columns["description"]["flags"] == {"refusal": 1}
    assert "flags" not in columns["caption_en"]
    assert (columns["caption_en"]["items_without_text"], columns["caption_en"]["empty"]) == (1, 0)


def test_texts_without_letters_have_no_language():
    """Numbers fit every language, so a guess would be held against the column."""
    pytest.importorskip("py3langid")
    german = "Ein brauner Hund rennt über den nassen Sand am Meer."
    rows = [{"caption_de": ["123 456", german, "2!"], "caption_fr": ["123 456"]}]
    columns = inspect(make_split(rows, ("caption_de", "caption_fr")), sample=1)["columns"]
    assert columns["caption_de"]["language_id"] == {"texts": 1, "expected_rate": 1.0, "found": {"de": 1}}
    assert "language_id" not in columns["caption_fr"]


def test_without_the_package_the_languages_are_left_out_with_a_note(monkeypatch):
    """An optional package must not be needed, and what was not measured must be said."""
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("py3langid"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    from processing import language_id

    language_id._identifier.cache_clear()
    language_id._restricted_identifier.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    report = inspect(make_split())
    assert all("language_id" not in column for column in report["columns"].values())
    assert len(report["notes"]) == 1
    assert 'pip install -e ".[data]"' in report["notes"][0]


def test_a_data_set_without_texts_and_a_bad_sample_are_refused():
    """An empty report looks like a clean data set."""
    with pytest.raises(ValueError, match="column of texts"):
        inspect(datasets.Dataset.from_dict({"image_id": ["a"], "note": ["x"]}))
    with pytest.raises(ValueError, match="must have rows"):
        inspect(make_split().select([]))
    with pytest.raises(ValueError, match="sample must be at least 1"):
        inspect(make_split(), sample=0)


def test_a_description_is_compared_with_captions_by_hand():
    """The two shares have different denominators."""
    said, captioned = {"dog", "run", "sand", "wet"}, [{"dog", "run"}, {"dog", "leash", "beach"}]
    assert compare(said, captioned) == {
        "num_captions": 2,
        "description_words": 4,
        "caption_words": 2.5,
        "captions_words": 4,
        "new_words": 2,
        "novelty": 0.5,
        "coverage": 0.5,
    }
    # Without the first caption: {sand, wet, run} and {run}; without the second: {sand, wet} and {leash, beach}.
    further = compare_with_a_further_caption(said, captioned)
    assert further == {
        "further_description_new_words": 2.5,
        "further_description_novelty": pytest.approx((3 / 4 + 2 / 4) / 2),
        "further_caption_new_words": 1.5,
        "further_caption_novelty": pytest.approx((1 / 2 + 2 / 3) / 2),
    }


def test_the_means_match_the_loop_oracle():
    """Sums of some items divided by the number of others would still look plausible."""
    generator = random.Random(3)
    words = [f"noun{i}" for i in range(15)]
    items = [
        (set(generator.sample(words, 6)), [set(generator.sample(words, 3)) for _ in range(generator.randrange(0, 4))])
        for _ in range(30)
    ]
    tally = DescriptionTally()
    for said, captions in items:
        tally.add(" ".join(sorted(said)), [" ".join(sorted(caption)) for caption in captions])
    found = tally.summary()
    novelty, coverage, further = [], [], []
    for said, captions in items:
        if captions:
            union = {word for caption in captions for word in caption}
            novelty.append(sum(word not in union for word in said) / len(said))
            coverage.append(sum(word in said for word in union) / len(union))
        if len(captions) > 1:
            shares = []
            for i, caption in enumerate(captions):
                others = {word for j, other in enumerate(captions) if j != i for word in other}
                shares.append(sum(word not in others for word in caption) / len(caption))
            further.append(sum(shares) / len(shares))
    assert 0 < len(further) < len(novelty) < len(items)
    assert found["against_captions"]["items"] == len(novelty)
    assert found["against_captions"]["novelty"] == pytest.approx(np.mean(novelty))
    assert found["against_captions"]["coverage"] == pytest.approx(np.mean(coverage))
    assert found["against_a_further_caption"]["items"] == len(further)
    assert found["against_a_further_caption"]["novelty"]["caption"] == pytest.approx(np.mean(further))


def test_descriptions_that_repeat_their_captions_bring_nothing_new():
    """The question must be able to have the answer no."""
    tally = DescriptionTally()
    tally.add("A dog runs and a child laughs.", ["a running dog", "the child laughs"])
    found = tally.summary()
    assert (found["against_captions"]["novelty"], found["against_captions"]["coverage"]) == (0, 1)
    assert found["against_a_further_caption"]["novelty"]["caption"] == 1


def test_refusals_and_items_without_captions_are_not_compared():
    """A sentence such as "I cannot help" holds new words in every item."""
    tally = DescriptionTally()
    tally.add("I'm sorry, but I can't assist with that request.", ["a dog", "a cat"])
    tally.add("A dog.", [])
    tally.add("A dog.", [None, "...", "of the"])
    tally.add(None, ["a dog"])
    assert tally.summary() == {"texts": 3, "refusals": 1, "refusal_rate": pytest.approx(1 / 3)}


def test_the_description_section_is_absent_without_descriptions():
    """A section of zeros would read as a result."""
    assert "descriptions" not in inspect(make_split(columns=("image_id", "caption_en")))
    assert inspect(make_split())["descriptions"]["texts"] == 1


@pytest.mark.realdata
def test_flickr8k_is_measured(data_dir):
    """Figures of a real data set, counted once by other means."""
    split = datasets.load_dataset(str(data_dir / "flickr8k-ccr"), split="validation")
    report = inspect_texts({"validation": split}, progress=False)
    english, german = report["columns"]["caption_en"], report["columns"]["caption_de"]
    assert (english["items"], english["texts"], english["empty"]) == (1000, 3000, 0)
    assert german["items_without_text"] == sum(not captions for captions in split["caption_de"])
    assert 0.5 < report["descriptions"]["against_captions"]["novelty"] < 0.6
