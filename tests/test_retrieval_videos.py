"""Search and evaluation over clips and features: what is read for which model, and what is shown of a hit."""

import json
import types

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from hub_scripts import draw_slots, evaluate, search
from modeling_leccr.training import outputs
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import VisualRows
from retrieval import items as items_module
from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import evaluate_retrieval, evaluation_protocol
from retrieval.index import ItemIndex
from retrieval.items import PictureFolder, VideoFolder, open_items, pictures_of, read_column, read_ids
from retrieval.pictures import CARD_SIZE, CORRECT, STRIP_HEIGHT, contact_sheet, still
from retrieval.results import Hit, QueryResult
from retrieval.slot_readings import read_slots
from retrieval.views import SHOWN_FRAMES, ItemViews
from tests.clips import make_clip, read_numbers
from tests.test_feature_store import make_store, value
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor

DIM = 6
FIELDS = {
    "image": {},
    "frames": {"vision_input": "frames"},
    "features": {"vision_input": "features", "feature_dim": DIM},
}
NUM_ITEMS = 4


def make_model(vision_input):
    return tiny_model(description_dropout=0.1, **FIELDS[vision_input])


def save_model(folder, vision_input):
    make_model(vision_input).save_pretrained(folder)
    tiny_processor(**({} if vision_input == "image" else {"num_frames": 3})).save_pretrained(folder)
    return str(folder)


def make_clips(folder, names=("b.mp4", "a.mkv", "sub/c.avi")):
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(names):
        picture = np.asarray(tiny_image(number).resize((48, 32)))
        make_clip(folder / name, 6, picture=picture)
    return folder


def make_features(folder, ids):
    """A folder of features, one `.npy` file an item, each of another length."""
    folder.mkdir()
    for number, name in enumerate(ids):
        np.save(folder / f"{name}.npy", np.random.default_rng(number).normal(size=(2 + number, DIM)).astype("float32"))
    return folder


def write_rows(folder, columns):
    """A data set of one split, `test`, with captions and descriptions."""
    rows = {
        "video_id": [f"v{i}" for i in range(NUM_ITEMS)],
        "description": [SENTENCES[i][2] for i in range(NUM_ITEMS)],
        "caption_en": [[SENTENCES[i][0]] for i in range(NUM_ITEMS)],
        "caption_de": [[SENTENCES[i][1]] for i in range(NUM_ITEMS)],
    }
    features = {name: datasets.Value("string") for name in ("video_id", "description")}
    features |= {name: datasets.List(datasets.Value("string")) for name in ("caption_en", "caption_de")}
    for name, (feature, values) in columns.items():
        features[name], rows[name] = feature, values
    split = datasets.Dataset.from_dict(rows, features=datasets.Features(features), split=datasets.Split.TEST)
    folder.mkdir()
    split.to_parquet(str(folder / "test-00000-of-00001.parquet"))
    return split


def clip_bytes(tmp_path, number):
    path = make_clip(tmp_path / f"clip{number}.mp4", 6, picture=np.asarray(tiny_image(number).resize((48, 32))))
    return path.read_bytes()


def count_colour(sheet, colour):
    return int((np.asarray(sheet) == ImageColor.getrgb(colour)).all(axis=-1).sum())


def test_a_folder_of_clips_is_read_as_rows(tmp_path):
    """Ids are stable paths; a clip is not decoded before somebody says which frames."""
    folder = make_clips(tmp_path / "clips")
    record = {"video_id": "sub/c.avi", "description": "a grey boat"}
    (folder / "descriptions.jsonl").write_text(json.dumps(record) + "\n")
    rows = open_items(str(folder), vision_input="frames")
    assert isinstance(rows, VideoFolder)
    assert read_ids(rows) == ["a.mkv", "b.mp4", "sub/c.avi"] and len(rows) == 3
    assert read_column(rows, "description") == [None, None, "a grey boat"]
    assert rows[1]["video"] == str(folder / "b.mp4")
    assert read_ids(rows.select([2, 0])) == ["sub/c.avi", "a.mkv"]


def test_a_folder_of_folders_of_frames_is_searched_as_clips(tmp_path, caplog):
    """Clips that were cut into frames once are searched as they lie, and albums of photos would look the same."""
    for clip, grey in (("sub/a", 40), ("b", 200)):
        (tmp_path / clip).mkdir(parents=True)
        for number, frame in enumerate(grey_frames([grey, grey + 20])):
            frame.save(tmp_path / clip / f"{number}.png")
    (tmp_path / "descriptions.jsonl").write_text(json.dumps({"video_id": "sub/a", "description": "a grey boat"}))
    rows = open_items(str(tmp_path), vision_input="frames", skip_corrupt=True)
    assert "2 folders of pictures are the frames of a clip each" in caplog.text
    assert read_ids(rows) == ["b", "sub/a"] and read_column(rows, "description") == [None, "a grey boat"]
    seen = VisualRows(rows, "frames", FrameSampling(2)).read(1)["frames"]
    assert [frame.getpixel((0, 0))[0] for frame in seen] == [40, 60]
    index = ItemIndex.build(make_model("frames"), tiny_processor(num_frames=2), rows, progress=False)
    assert list(index.item_ids) == ["b", "sub/a"]


def test_evaluation_of_features_refuses_clips(tmp_path):
    """Taken and not read, the clips would be thought to be what the figures are of."""
    model = save_model(tmp_path / "model", "features")
    write_rows(tmp_path / "rows", {})
    options = ["--model", model, "--dataset", str(tmp_path / "rows"), "--languages", "de", "--videos", str(tmp_path)]
    with pytest.raises(ValueError, match=r"--videos .* is for models that read clips, .* give --features"):
        evaluate.main(options)


def test_the_model_decides_what_is_read_of_a_folder_with_pictures_and_clips(tmp_path, caplog):
    """A holiday folder has both; what is left out must be told, and a wrong model refused in its own words."""
    folder = make_clips(tmp_path / "clips")
    with pytest.raises(
        ValueError, match=r"holds 3 clips and not one of the pictures that a model .* 'image' reads; one"
    ):
        open_items(str(folder))
    tiny_image(0).save(folder / "photo.png")
    (folder / "old.rmvb").write_bytes(b"")
    assert read_ids(open_items(str(folder))) == ["photo.png"]
    assert "1 files of" in caplog.text and "kinds that are not read (first: ['old.rmvb'])" in caplog.text
    assert "3 clips of" in caplog.text and "are left out" in caplog.text
    assert read_ids(open_items(str(folder), vision_input="frames")) == ["a.mkv", "b.mp4", "sub/c.avi"]
    for name in ("a.mkv", "b.mp4", "sub/c.avi"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"holds 1 pictures and not one of the clips that a model .* 'frames' reads"):
        open_items(str(folder), vision_input="frames")
    with pytest.raises(ValueError, match=r"neither feature.bin nor a .npy file"):
        open_items(str(folder), vision_input="features")


def test_a_folder_of_features_is_searched_by_a_model_of_features(tmp_path):
    """What researchers have of a benchmark is often nothing else."""
    folder = make_features(tmp_path / "features", ["x", "y", "z"])
    rows = open_items(str(folder), vision_input="features")
    assert read_ids(rows) == ["x", "y", "z"] and read_column(rows, "description") == [None] * 3
    images, _ = encode_items(make_model("features"), tiny_processor(num_frames=3), rows, progress=False)
    assert images.shape[0] == 3
    clips = make_clips(tmp_path / "clips", ("x.mp4", "y.mp4"))
    open_items(str(folder), vision_input="features", videos=str(clips))  # looked at, not read
    for setting in ("features", "images"):
        with pytest.raises(ValueError, match=rf"is a folder of features itself; leave --{setting} .* out"):
            open_items(str(folder), vision_input="features", **{setting: str(folder)})


def test_a_folder_of_features_tells_what_it_lacks_and_has_its_descriptions_beside_it(tmp_path, caplog):
    """A store that lost frames ranks other numbers than those of the papers; nobody would look for the reason."""
    folder = make_store(tmp_path / "store", frames={"a": ["a_0", "lost"], "b": ["b_0"], "gone": ["lost"]})
    records = [{"video_id": "a", "description": "a grey boat"}, {"video_id": "old", "description": "a dog"}]
    (folder / "descriptions.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    rows = open_items(str(folder), vision_input="features")
    assert read_ids(rows) == ["a", "b"] and read_column(rows, "description") == ["a grey boat", None]
    assert "1 items have a frame without features (first: a); they stay" in caplog.text
    assert "1 items have no features (first: gone); they are left out" in caplog.text
    assert "1 descriptions name none of the features" in caplog.text and "['old']" in caplog.text
    read = VisualRows(rows, "features").read(1)["features"]
    np.testing.assert_array_equal(read, value("b_0")[None])


def test_a_folder_that_the_model_does_not_read_is_refused_by_its_option(tmp_path):
    """Joined in silence, its items would be dropped where a file is missing, for nothing."""
    write_rows(tmp_path / "rows", {})
    clips = make_clips(tmp_path / "clips", [f"v{i}.mp4" for i in range(NUM_ITEMS)])
    with pytest.raises(ValueError, match=r"--videos .* is for models with vision_input 'frames', .* give --images"):
        open_items(str(tmp_path / "rows"), videos=str(clips))
    with pytest.raises(ValueError, match=r"--images .* is for models with vision_input 'image', .* give --videos"):
        open_items(str(tmp_path / "rows"), vision_input="frames", images=str(clips))
    rows = open_items(str(tmp_path / "rows"), vision_input="frames", videos=str(clips))
    assert read_ids(rows) == [f"v{i}" for i in range(NUM_ITEMS)] and rows[0]["video"].endswith("v0.mp4")


@pytest.mark.parametrize("kind", ["image", "frames"])
def test_items_of_another_kind_are_refused_before_they_are_encoded(tmp_path, kind):
    """The error would else come from a tensor of the wrong shape."""
    place = {"image": "video", "frames": "image"}[kind]
    feature = {"video": datasets.Value("string"), "image": datasets.Image()}[place]
    rows = write_rows(tmp_path / "rows", {place: (feature, [None] * NUM_ITEMS)})
    with pytest.raises(ValueError, match=f"vision_input '{kind}' reads the column .* or take a model of what there is"):
        encode_items(make_model(kind), tiny_processor(), rows, progress=False)


def test_damaged_clips_are_left_out_and_their_hits_are_shown_without_reading_all_again(tmp_path, caplog, monkeypatch):
    """A folder of a million clips must not be decoded a second time for five thumbnails."""
    folder = make_clips(tmp_path / "clips")
    (folder / "b.mp4").write_bytes(b"broken")
    source = {"location": str(folder), "vision_input": "frames", "skip_corrupt": True}
    rows = open_items(**source, sampling=FrameSampling(3))
    assert read_ids(rows) == ["a.mkv", "sub/c.avi"]
    assert "1 of 3 clips cannot be read and are left out (first: ['b.mp4'])" in caplog.text
    monkeypatch.setattr(items_module, "find_unreadable", None)
    index = ItemIndex(torch.ones(2, 1, 4), read_ids(rows))
    assert read_ids(pictures_of(index, source)) == ["a.mkv", "sub/c.avi"]
    (folder / "a.mkv").unlink()
    with pytest.raises(ValueError, match="are not those of the index any more"):
        pictures_of(index, source)


@pytest.mark.parametrize("skip", [[], ["--skip-corrupt"]])
def test_search_over_clips_shows_strips_and_keeps_an_index(tmp_path, capsys, skip):
    """The 20 lines of the README for videos: clips in, hits out."""
    model = save_model(tmp_path / "model", "frames")
    clips = make_clips(tmp_path / "clips")
    if skip:
        (clips / "bad.mp4").write_bytes(b"broken")
    sheet, index = tmp_path / "hits.png", tmp_path / "index"
    arguments = ["--model", model, "--items", str(clips), "--query", "ein roter ball", "--query", "赤い", *skip]
    search.main([*arguments, "--top-k", "2", "--save-picture", str(sheet), "--save-index", str(index)])
    first = capsys.readouterr().out
    # Six frames, five of which are shown: 48 x 32 pixels each, made as high as a strip.
    assert Image.open(sheet).height > 4 * STRIP_HEIGHT
    assert not {"bad.mp4"} & set(first.split())
    search.main(["--model", model, "--items", str(index), "--query", "ein roter ball", "--top-k", "2",
                 "--save-picture", str(sheet)])  # fmt: skip
    assert capsys.readouterr().out.strip() == first.split("\n\n")[0].strip()


def test_queries_name_their_clip_by_video_id(tmp_path):
    """A list of queries for a data set of videos has its words, and no hit would be marked as the correct one."""
    model, clips = save_model(tmp_path / "model", "frames"), make_clips(tmp_path / "clips")
    queries = [{"query": "ein boot", "video_id": "b.mp4"}, {"query": "ein ball", "image_id": "a.mkv"}]
    (tmp_path / "queries.json").write_text(json.dumps(queries))
    search.main(["--model", model, "--items", str(clips), "--query-file", str(tmp_path / "queries.json"),
                 "--save-results", str(tmp_path / "hits.json")])  # fmt: skip
    found = json.loads((tmp_path / "hits.json").read_text())
    assert [[hit["image_id"] for hit in entry["hits"] if hit["correct"]] for entry in found] == [["b.mp4"], ["a.mkv"]]


def test_a_clip_finds_itself_by_the_score_of_its_own_embedding(tmp_path):
    """An index over a folder must hold what the model makes of the frames that the processor samples."""
    rows = open_items(str(make_clips(tmp_path / "clips")), vision_input="frames")
    model, processor = make_model("frames"), tiny_processor(num_frames=3)
    index = ItemIndex.build(model, processor, rows, progress=False)
    inputs = processor(videos=[rows[i]["video"] for i in range(3)])
    with torch.no_grad():
        features = model.get_image_features(**inputs)
    weight = model.config.global_weight
    expected = weight * features.pooler_output[:, None] + (1 - weight) * features.slot_embeds
    torch.testing.assert_close(index.composites, expected, atol=1e-5, rtol=0)
    index.save(tmp_path / "index")
    assert torch.equal(ItemIndex.load(tmp_path / "index").composites, index.composites)


@pytest.mark.parametrize("form", ["bytes", "paths", "numbers", "npy"])
def test_evaluate_reads_each_form_of_a_data_set_of_videos(tmp_path, capsys, form):
    """Clips inside the data set and beside it, features inside it and beside it."""
    ids, options = [f"v{i}" for i in range(NUM_ITEMS)], []
    vision_input = "features" if form in ("numbers", "npy") else "frames"
    columns = {}
    if form == "bytes":
        values = [{"bytes": clip_bytes(tmp_path, i), "path": f"{name}.mp4"} for i, name in enumerate(ids)]
        columns["video"] = (datasets.Video(decode=False), values)
    elif form == "numbers":
        values = [np.random.default_rng(i).normal(size=(2 + i, DIM)).astype("float32").tolist() for i in range(4)]
        columns["features"] = (datasets.List(datasets.List(datasets.Value("float32"))), values)
    elif form == "paths":
        options = ["--videos", str(make_clips(tmp_path / "clips", [f"{name}.mp4" for name in ids]))]
    else:
        options = ["--features", str(make_features(tmp_path / "features", ids))]
    write_rows(tmp_path / "rows", columns)
    model = save_model(tmp_path / "model", vision_input)
    evaluate.main(["--model", model, "--dataset", str(tmp_path / "rows"), "--languages", "de", "--skip-corrupt",
                   "--scoring", "min_max", *options])  # fmt: skip
    report = json.loads(capsys.readouterr().out)
    assert report["protocol"]["vision_input"] == vision_input
    assert (report["metrics"]["de/num_items"], report["metrics"]["de/num_texts"]) == (4, 4)
    assert 0 < report["metrics"]["de/sum_r"] <= 600


def test_the_protocol_of_pictures_names_no_kind_of_video(tmp_path):
    """Protocols of earlier runs are compared with new ones word for word."""
    split = write_rows(tmp_path / "rows", {})
    assert "vision_input" not in evaluation_protocol(make_model("image"), split, ["de"])


def test_recalls_of_videos_follow_their_embeddings(tmp_path):
    """The whole path, from numbers in parquet to recalls, against the plain score."""
    values = [np.random.default_rng(i).normal(size=(2 + i, DIM)).astype("float32").tolist() for i in range(4)]
    feature = datasets.List(datasets.List(datasets.Value("float32")))
    split = write_rows(tmp_path / "rows", {"features": (feature, values)})
    model, processor = make_model("features"), tiny_processor(num_frames=3)
    metrics = evaluate_retrieval(model, processor, split, ["de"], progress=False)
    images, slots = encode_items(model, processor, split, progress=False)
    texts = encode_texts(model, processor, [captions[0] for captions in split["caption_de"]], progress=False)
    weight = model.config.global_weight
    scores = weight * images @ texts.T + (1 - weight) * (slots @ texts.T).amax(dim=1)
    others = scores - 10 * torch.eye(4)
    first = 100 * (others.amax(dim=0) < scores.diag() - 1e-6).float().mean().item()
    assert metrics["de/t2i_R@1"] == pytest.approx(first)


def test_a_hit_is_shown_by_its_frames_in_order_of_time(tmp_path):
    """Frames out of order, or five times the first one, show no motion."""
    clip = make_clip(tmp_path / "clip.mp4", 20)
    rows = datasets.Dataset.from_dict({"video_id": ["v"], "video": [str(clip)], "caption_en": [["a ball"]]})
    frames = ItemViews(rows)(0)
    assert read_numbers(frames) == [2, 6, 10, 14, 18]
    part = datasets.Dataset.from_dict({"video_id": ["v"], "video": [str(clip)], "start": [1.0], "end": [None]})
    assert read_numbers(ItemViews(part)(0)) == [11, 13, 15, 17, 19]


def test_a_hit_of_features_is_shown_by_its_clip_where_there_is_one_and_else_by_words(tmp_path):
    """Features are numbers that nobody can look at."""
    columns = {
        "video_id": ["v0", "v1", "v2", "v3"],
        "features": ["f"] * 4,
        "start": [None, 1.0, None, None],
        "end": [None] * 4,
        "description": [None, "a boat at sea", "a boat at sea", None],
        "caption_en": [["a ball"], ["a boat"], [], []],
        "caption_de": [[], [], [], []],
    }
    rows = datasets.Dataset.from_dict(columns)
    views = ItemViews(rows)
    assert [views(i) for i in range(4)] == ["a ball", "a boat", "a boat at sea", "v3"]
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips" / "v1.mp4", 20)
    views = ItemViews(rows, videos=tmp_path / "clips")
    assert views(0) == "a ball" and read_numbers(views(1)) == [11, 13, 15, 17, 19]
    for number in range(5):
        (tmp_path / "frames" / "v1").mkdir(parents=True, exist_ok=True)
        grey_frames([10 * number])[0].save(tmp_path / "frames" / "v1" / f"{number}.png")
    assert read_numbers(ItemViews(rows, videos=tmp_path / "frames")(1)) == [0, 1, 2, 3, 4]


def grey_frames(levels, size=(60, 40)):
    return [Image.new("RGB", size, (level, level, level)) for level in levels]


def results(correct_id=None, num_hits=2):
    hits = [Hit(f"clip-{i}", i, 0.9 - i / 10) for i in range(num_hits)]
    return [QueryResult("roter ball", hits, "de", correct_id)]


def test_a_strip_has_all_frames_from_left_to_right():
    """The order of time is what a strip is for."""
    levels = [11, 61, 111, 161, 211]
    sheet = np.asarray(contact_sheet(results(num_hits=1), lambda position: grey_frames(levels)))
    columns = [np.flatnonzero((sheet == level).all(axis=-1).any(axis=0)) for level in levels]
    starts = [found.min() for found in columns]
    assert starts == sorted(starts) and len(set(starts)) == 5
    # The part of a column that is one level: neighbours do not overlap.
    assert all((sheet == level).all(axis=-1).sum() > 60 * 80 for level in levels)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (1920, 1080), (1, 1)])
def test_a_strip_stays_in_its_place_whatever_its_frames(size):
    """Wide frames would run out of the sheet, high ones into the next hit."""
    plain = contact_sheet(results(), lambda position: grey_frames([50] * 5))
    sheet = contact_sheet(results(), lambda position: grey_frames([50] * 5, size))
    assert sheet.height == plain.height and 800 < sheet.width < 1200
    rows = np.flatnonzero((np.asarray(sheet) == 50).all(axis=-1).any(axis=1))
    assert len(rows) <= 2 * STRIP_HEIGHT and np.asarray(sheet)[:, -20:].min() > 200


def test_the_correct_strip_alone_has_a_frame_and_the_legend_says_clip():
    """The reader must see at once whether the right clip came first."""
    plain, framed = (
        contact_sheet(results(correct_id), lambda position: grey_frames([50] * 5)) for correct_id in (None, "clip-1")
    )
    assert count_colour(plain, CORRECT) == 0
    assert count_colour(framed, CORRECT) > 4 * (5 * 135 + STRIP_HEIGHT)


def test_words_stand_where_there_is_nothing_to_see():
    """Some clips of a data set are gone; their hits are no reason to draw none."""
    views = [grey_frames([50] * 5), "ein roter ball im gras", tiny_image(2)]
    mixed = contact_sheet(results(num_hits=3), views.__getitem__)
    alone = contact_sheet(results(num_hits=1), lambda position: views[0])
    assert mixed.width == alone.width and mixed.height - alone.height > 2 * STRIP_HEIGHT
    picture = contact_sheet(results(num_hits=3), lambda position: [views[0], grey_frames([99])[0], views[1]][position])
    assert len(np.flatnonzero((np.asarray(picture) == 99).all(axis=-1).any(axis=1))) <= STRIP_HEIGHT
    cards = contact_sheet(results(num_hits=3), lambda position: "ein roter ball " * 40)
    pictures = contact_sheet(results(num_hits=3), tiny_image)
    assert cards.width == pictures.width and 0 < cards.height - pictures.height < 40  # a line that says what they are


def test_one_square_picture_stands_for_any_view():
    """Sheets of slots have place for one picture of an item."""
    assert still(grey_frames([10, 20, 30]), 40).getpixel((20, 20)) == (20, 20, 20)
    assert still(tiny_image(0), 40).size == still("a text", 40).size == (40, 40)
    assert np.asarray(still("a text", 10 * CARD_SIZE)).min() < 100


def test_slots_are_read_of_the_frames_that_are_searched(tmp_path):
    """Of all frames instead of the sampled ones, the slots shown are not those that were matched."""
    rows = VideoFolder(make_clips(tmp_path / "clips"))
    rows.descriptions = {name: "a red ball" for name in rows.names}
    # A rate, because the processor would thin frames that are too many to the right ones again.
    model, processor = make_model("frames"), tiny_processor(num_frames=12, frame_rate=3.0)
    _, slots = encode_items(model, processor, rows, progress=False)
    readings = read_slots(model, processor, rows)
    torch.testing.assert_close(torch.stack([reading.slot_embeds for reading in readings]), slots, atol=1e-5, rtol=0)
    _, others = encode_items(model, tiny_processor(num_frames=12), rows, progress=False)
    assert float((slots - others).abs().max()) > 1e-4  # or the number of frames would not show


def test_the_frames_that_are_checked_are_those_that_the_model_reads(tmp_path, monkeypatch):
    """A clip that is whole at 12 places may be damaged at one of 64."""
    asked = []

    def find_nothing(rows, kind, *, sampling, shared):
        asked.append(sampling)
        return []

    monkeypatch.setattr(items_module, "find_unreadable", find_nothing)
    clips, model = make_clips(tmp_path / "clips"), save_model(tmp_path / "model", "frames")
    search.main(["--model", model, "--items", str(clips), "--query", "ein boot", "--skip-corrupt"])
    with pytest.raises(ValueError, match="caption_de"):  # after the check
        evaluate.main(["--model", model, "--dataset", str(clips), "--languages", "de", "--skip-corrupt"])
    assert asked == [FrameSampling(3)] * 2


@pytest.mark.parametrize("vision_input", ["frames", "features"])
def test_slots_of_videos_are_drawn(tmp_path, capsys, vision_input):
    """The slots attend to the description, which a clip has as a picture has."""
    if vision_input == "frames":
        values = [{"bytes": clip_bytes(tmp_path, i), "path": None} for i in range(NUM_ITEMS)]
        columns = {"video": (datasets.Video(decode=False), values)}
    else:
        numbers = np.ones((NUM_ITEMS, 2, DIM)).tolist()
        columns = {"features": (datasets.List(datasets.List(datasets.Value("float32"))), numbers)}
    write_rows(tmp_path / "rows", columns)
    out = tmp_path / "slots.png"
    model = save_model(tmp_path / "model", vision_input)
    draw_slots.main(["--model", model, "--items", str(tmp_path / "rows"), "--count", "2", "--out", str(out)])
    assert [item["image_id"] for item in json.loads(capsys.readouterr().out)["items"]] == ["v0", "v1"]
    assert Image.open(out).width > 300


@pytest.mark.parametrize("vision_input", ["frames", "features"])
def test_a_run_searches_its_videos_from_another_folder(tmp_path, monkeypatch, vision_input):
    """Places that a recipe names are relative to where it runs, and the search runs in the folder of the run."""
    monkeypatch.chdir(tmp_path)
    ids = [f"v{i}" for i in range(NUM_ITEMS)]
    make_clips(tmp_path / "clips", [f"{name}.mp4" for name in ids])
    make_features(tmp_path / "features", ids)
    write_rows(tmp_path / "rows", {})
    option = {"frames": {"videos": "clips"}, "features": {"features": "features"}}[vision_input]
    split = open_items("rows", vision_input=vision_input, **option)
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder / "model", vision_input)

    def search_there(command, cwd, **kwargs):
        monkeypatch.chdir(cwd)
        search.main(command[command.index("hub_scripts.search") + 1 :])
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(outputs.subprocess, "run", search_there)
    found = outputs.search_in_fresh_process(folder, split, ["de", "en"])
    assert [len(search["hits"]) for search in found] == [NUM_ITEMS, NUM_ITEMS]
    assert outputs.find_query(split, "de", 2) == (SENTENCES[2][1], "v2")
    assert all(sum(hit["correct"] for hit in search["hits"]) == 1 for search in found)
    assert Image.open(folder / "retrieval.png").width > 300


def test_shown_frames_are_few_and_pictures_keep_their_view(tmp_path):
    """A picture is a picture, also where a data set has clips beside it."""
    tiny_image(0).save(tmp_path / "a.png")
    assert 4 <= SHOWN_FRAMES.num_frames <= 5
    assert isinstance(ItemViews(PictureFolder(tmp_path))(0), Image.Image)
