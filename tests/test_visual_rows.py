"""What a model sees of rows: the same whoever reads it, named where it cannot be read, drawn where it is trained on."""

import io
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from processing.pairs import CaptionPairs
from processing.readers.feature_store import attach_features
from processing.video_frames_leccr import FrameSampling
from processing.visual_rows import VisualRows, as_processor_inputs, rows_of
from tests.clips import make_clip, read_numbers
from tests.processing_parts import items, picture, png_bytes
from tests.test_feature_store import make_store, value

FLOATS = datasets.List(datasets.List(datasets.Value("float32")))


def numbers(num_frames: int, item: int = 0, dim: int = 3) -> np.ndarray:
    """Features that differ in each place."""
    return (np.arange(num_frames * dim).reshape(num_frames, dim) + 1000 * item).astype(np.float32)


def table_of(column: str, cells: list[Any], feature: Any, **columns: list[Any]) -> datasets.Dataset:
    rows = {"video_id": [f"clip-{i}" for i in range(len(cells))], column: cells}
    split = datasets.Dataset.from_dict({**rows, **columns})
    return split.cast_column(column, feature)


def frame_folder(folder: Path, num_frames: int) -> str:
    """Frame `i` is the picture made from seed `i`."""
    folder.mkdir(parents=True)
    for index in range(num_frames):
        picture(index).save(folder / f"{index}.png")
    return str(folder)


def read_seeds(frames: list[Image.Image]) -> list[int]:
    """The seeds of the pictures of `frame_folder`."""
    pixels = {np.asarray(picture(seed)).tobytes(): seed for seed in range(40)}
    return [pixels[np.asarray(frame).tobytes()] for frame in frames]


def test_a_picture_is_the_same_from_every_kind_of_rows(tmp_path: Path):
    """Training, evaluation and search would see other pictures of one item, and nobody would know."""
    split = items(3, 1, image=[{"bytes": png_bytes(picture(i).convert("L")), "path": None} for i in range(3)])
    expected = np.asarray(picture(2).convert("L").convert("RGB"))
    as_dicts = [{"image": split[i]["image"]} for i in range(3)]
    picture(2).convert("L").save(tmp_path / "2.png")
    as_paths = datasets.Dataset.from_dict({"image": [str(tmp_path / f"{i}.png") for i in range(3)]})
    for rows in (split, split.select([2, 1, 2]), split.with_format("numpy"), as_dicts, as_paths):
        found = VisualRows(rows, "image").read(2)
        assert list(found) == ["image"] and found["image"].mode == "RGB"
        assert np.array_equal(np.asarray(found["image"]), expected)


def test_a_stored_picture_stands_upright():
    """Phones store the turn of a photo beside its pixels."""
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, 24, 16).save(turned, format="PNG", exif=exif)
    split = items(1, 1, image=[{"bytes": turned.getvalue(), "path": None}])
    assert VisualRows(split, "image").read(0)["image"].size == (16, 24)


def test_a_clip_is_the_same_from_a_path_from_bytes_and_from_a_folder_of_frames(tmp_path: Path):
    """A data set of clips is published as bytes in parquet, and trained on from files at home."""
    path = make_clip(tmp_path / "a.mp4", 20)
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(20):
        Image.new("RGB", (48, 32), (index * 10,) * 3).save(folder / f"{index}.png")
    sampling = FrameSampling(5)
    struct = {"bytes": path.read_bytes(), "path": None}
    for split in (
        table_of("video", [str(path)], datasets.Value("string")),
        table_of("video", [str(folder)], datasets.Value("string")),
        table_of("video", [struct], datasets.Video(decode=False)),
        table_of("video", [{"bytes": None, "path": str(path)}], datasets.Video()),  # it would be decoded by torchcodec
        [{"video": struct}],
    ):
        found = VisualRows(split, "frames", sampling).read(0)
        assert list(found) == ["frames"] and read_numbers(found["frames"]) == [2, 6, 10, 14, 18]
    assert len(VisualRows(split, "frames").read(0)["frames"]) == FrameSampling().num_frames


def test_a_clip_is_read_between_its_start_and_its_end(tmp_path: Path):
    """VATEX captions ten seconds of a film; without them a model would learn from the whole of it."""
    path = str(make_clip(tmp_path / "a.mp4", 20, frames_per_second=10))
    split = table_of("video", [path] * 3, datasets.Value("string"), start=[1.0, None, None], end=[1.4, 0.3, None])
    rows = VisualRows(split, "frames", FrameSampling(20))
    assert [read_numbers(rows.read(i)["frames"]) for i in range(3)] == [[10, 11, 12, 13], [0, 1, 2], list(range(20))]
    # Features have no times: theirs were taken when they were extracted.
    split = split.add_column("features", [numbers(4).tolist()] * 3)
    assert len(VisualRows(split, "features").read(0)["features"]) == 4


def test_features_are_the_same_from_a_store_from_files_and_from_numbers(tmp_path: Path):
    """Each has another type on disk; a model sees float32 in one form."""
    found, wide = numbers(2), numbers(2).astype(np.float64)[None]
    np.save(tmp_path / "a.npy", wide)
    array = datasets.Features({"features": datasets.Array2D((2, 3), "float32")})
    for rows in (
        table_of("features", [str(tmp_path / "a.npy")], datasets.Value("string")),
        table_of("features", [found.tolist()], FLOATS),
        table_of("features", [found.tolist()], datasets.List(datasets.List(datasets.Value("float16"), length=3))),
        datasets.Dataset.from_dict({"features": [found.tolist()]}, features=array),
        [{"features": found}],
        [{"features": wide.tolist()}],
    ):
        read = VisualRows(rows, "features").read(0)["features"]
        assert read.dtype == np.float32 and np.array_equal(read, found)
    store = make_store(tmp_path / "store")
    rows, _ = attach_features(datasets.Dataset.from_dict({"video_id": ["a", "b"]}), store)
    read = VisualRows(rows, "features").read(0)["features"]
    assert np.array_equal(read, np.stack([value("a_1"), value("a_0")]))


def test_features_stored_as_numbers_come_as_arrays():
    """As lists, the numbers of a buffer of 2,000 videos of 30 x 1024 would take 2 GB."""
    cells = [numbers(2).tolist(), None, [[1.0], [1.0, 2.0]], []]
    table = pa.table({"features": pa.array(cells, pa.list_(pa.list_(pa.float32()))), "video_id": list("abcd")})
    first, *others = rows_of(table)
    assert isinstance(first["features"], np.ndarray) and np.array_equal(first["features"], numbers(2))
    assert first["features"].base.flags.owndata  # and not a view of all rows
    assert [row["features"] for row in others] == [None, [[1.0], [1.0, 2.0]], []]
    assert [row["video_id"] for row in others] == ["b", "c", "d"]
    middle = rows_of(table.slice(2, 1))
    assert len(middle) == 1 and middle[0]["video_id"] == "c"
    fixed = datasets.Features({"features": datasets.Array2D((2, 3), "float32")})
    (row,) = rows_of(datasets.Dataset.from_dict({"features": [numbers(2)]}, features=fixed).with_format("arrow")[:])
    assert isinstance(row["features"], np.ndarray)
    texts = pa.table({"features": ["store#a", None]})
    assert rows_of(texts) == [{"features": "store#a"}, {"features": None}]


def test_a_slice_of_a_table_gives_its_own_numbers():
    """Arrow keeps the values of the whole column beside a slice, with an offset that is easily lost."""
    split = table_of("features", [numbers(i + 1, i).tolist() for i in range(5)], FLOATS)
    for rows, order in (
        (split, range(5)),
        (split.select([4, 0, 2]), (4, 0, 2)),
        (split.select(range(2, 5)), (2, 3, 4)),
    ):
        seen = VisualRows(rows, "features")
        for position, item in enumerate(order):
            assert np.array_equal(seen.read(position)["features"], numbers(item + 1, item))


def test_a_draw_decides_which_frames_and_features_are_seen(tmp_path: Path):
    """Training sees other frames in each epoch, the same again after a stop; evaluation always the middle ones."""
    folder = frame_folder(tmp_path / "clip", 30)
    sampling = FrameSampling(5)
    clips = VisualRows([{"video": folder}], "frames", sampling)
    features = VisualRows([{"features": numbers(30)}], "features", sampling)

    def places(draw: int | None) -> list[int]:
        frames = read_seeds(clips.read(0, draw)["frames"])
        kept = [int(row[0]) // 3 for row in features.read(0, draw)["features"]]
        assert kept == frames  # the features of a frame are taken where the frame would be
        return frames

    assert places(None) == [3, 9, 15, 21, 27]
    drawn = [places(draw) for draw in range(20)]
    assert drawn == [places(draw) for draw in range(20)]
    assert len({tuple(found) for found in drawn}) > 15
    for found in drawn:
        assert [place // 6 for place in found] == [0, 1, 2, 3, 4]


def test_without_a_sampling_all_features_are_seen():
    """Features were sampled when they were extracted; cutting them without being asked loses the end of a video."""
    rows = [{"features": numbers(50)}]
    assert len(VisualRows(rows, "features").read(0, draw=3)["features"]) == 50
    assert len(VisualRows(rows, "features", FrameSampling(60)).read(0, draw=3)["features"]) == 50


def broken_rows(tmp_path: Path) -> dict[str, datasets.Dataset]:
    """For each kind of model, a good item and four that cannot be read."""
    whole = png_bytes(picture(0))
    pictures = [whole, whole[: len(whole) // 2], b"no picture", b""]
    clip = make_clip(tmp_path / "a.mp4").read_bytes()
    clips = [clip, clip[: len(clip) // 2], b"no clip", b""]
    np.save(tmp_path / "a.npy", np.full((2, 3), np.nan))
    (tmp_path / "b.npy").write_bytes(b"no array")
    (tmp_path / "empty").mkdir()
    texts = [str(tmp_path / "gone.mp4"), str(tmp_path / "empty"), str(tmp_path / "b.npy"), None]
    features = [numbers(2).tolist(), [[1.0, float("nan")]], [[1.0], [2.0, 3.0]], [], None]
    good = {"video": str(tmp_path / "a.mp4"), "features": None}
    np.save(tmp_path / "good.npy", numbers(2))
    good["features"] = str(tmp_path / "good.npy")
    places = [good["features"], str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), str(tmp_path / "gone.npy"), "store#a"]
    return {
        "image": items(5, 1, image=[*({"bytes": data, "path": None} for data in pictures), None]),
        "frames": table_of(
            "video", [*({"bytes": data, "path": None} for data in clips), None], datasets.Video(decode=False)
        ),
        "frames of paths": table_of("video", [good["video"], *texts], datasets.Value("string")),
        "features": table_of("features", features, FLOATS),
        "features of paths": table_of("features", places, datasets.Value("string")),
    }


@pytest.mark.parametrize("kind", ["image", "frames", "frames of paths", "features", "features of paths"])
def test_what_cannot_be_read_is_named_and_the_rest_is_read(tmp_path: Path, kind: str):
    """One broken file of a large crawl must neither end the training without a name nor reach the model as noise."""
    split = broken_rows(tmp_path)[kind]
    rows = VisualRows(split, kind.partition(" ")[0])
    assert len(rows.read(0)) == 1
    id_column = "image_id" if kind == "image" else "video_id"
    for position in range(1, 5):
        named = rf"^item '{split[id_column][position]}' \(row {position}\): its (image|video|features) must be readable"
        with pytest.raises(ValueError, match=named + ".*corrupt_images: skip.*--skip-corrupt"):
            rows.read(position)
    bare = VisualRows([split[4]], kind.partition(" ")[0])
    with pytest.raises(ValueError, match=r"^item 0: its"):
        bare.read(0)


def test_a_row_without_the_column_is_named_too():
    """A list of dicts has no columns that could be looked at before."""
    with pytest.raises(ValueError, match=r"^item 0: its video must be readable, got KeyError\('video'\)"):
        VisualRows([{"image": picture()}], "frames").read(0)


@pytest.mark.parametrize(
    ("vision_input", "setting"), [("image", "images"), ("frames", "videos"), ("features", "features")]
)
def test_a_split_without_what_the_model_sees_is_refused(vision_input: str, setting: str):
    """A model of clips on a data set of pictures would stop at its first batch, an hour after the start."""
    split = datasets.Dataset.from_dict({"video_id": ["a"], "description": ["x"]})
    with pytest.raises(ValueError, match=f"vision_input '{vision_input}' .*'description'.*`{setting}` in a recipe"):
        VisualRows(split, vision_input)


def test_an_unknown_vision_input_is_refused():
    """A typo would be a KeyError in a worker of a data loader."""
    with pytest.raises(ValueError, match=r"vision_input must be one of .*'features', 'frames', 'image'.*got 'clips'"):
        VisualRows([], "clips")


def test_a_processor_is_given_what_was_read():
    """Pictures given as a video of one frame would pass, and train another model."""
    assert as_processor_inputs([{"image": 1}, {"image": 2}]) == {"images": [1, 2]}
    assert as_processor_inputs([{"frames": [1], "item_index": 0}]) == {"videos": [[1]]}
    assert as_processor_inputs([{"features": 3}]) == {"features": [3]}
    assert as_processor_inputs([{"source_caption": "a"}]) == {} and as_processor_inputs([]) == {}


def video_pairs(tmp_path: Path, vision_input: str, **settings: Any) -> CaptionPairs:
    """Pairs of six videos of unlike lengths, from folders of frames or from a store."""
    texts = items(6, 2).remove_columns("image").rename_column("image_id", "video_id")
    if vision_input == "frames":
        split = texts.add_column("video", [frame_folder(tmp_path / f"{i}", i + 1) for i in range(6)])
    else:
        folder = tmp_path / "features"
        folder.mkdir()
        for item in range(6):
            np.save(folder / f"item-{item}.npy", numbers(item + 1, item))
        split, _ = attach_features(texts, folder)
    return CaptionPairs(split, ["de"], vision_input=vision_input, **settings)


@pytest.mark.parametrize("vision_input", ["frames", "features"])
def test_pairs_hold_what_the_model_sees_of_their_item(tmp_path: Path, vision_input: str):
    """Captions of one video beside the frames of another train without any error."""
    pairs = video_pairs(tmp_path, vision_input, sampling=FrameSampling(4))
    for index in range(len(pairs)):
        row = pairs[index]
        assert row is not None and "image" not in row
        item = row["item_index"]
        assert row["image_id"] == f"item-{item}" and row["source_caption"].split()[1] == str(item)
        if vision_input == "frames":
            expected = list(range(item + 1)) if item < 4 else [(2 * i + 1) * (item + 1) // 8 for i in range(4)]
            assert read_seeds(row["frames"]) == expected
        else:
            assert len(row["features"]) == min(item + 1, 4) and row["features"][0, 0] // 1000 == item
    drawn = [pairs.pair(len(pairs) - 1, draw)[vision_input] for draw in range(8)]
    assert len({np.asarray(found[-1]).tobytes() + np.asarray(found[0]).tobytes() for found in drawn}) > 1


def test_a_video_that_cannot_be_read_is_skipped_if_asked_for(tmp_path: Path):
    """Clips vanish from the sites that hosted them; a run over thousands must go on without."""
    pairs = video_pairs(tmp_path, "frames", corrupt_images="skip")
    for path in (tmp_path / "1").iterdir():
        path.write_bytes(b"")
    assert [pairs[index] is None for index in range(len(pairs))] == [False] * 2 + [True] * 2 + [False] * 8
    pairs.corrupt_images = "error"
    with pytest.raises(ValueError, match=r"item 'item-1' \(row 1\): its video must be readable"):
        pairs[2]


def _first_features(pairs: CaptionPairs, results: Any) -> None:
    row = pairs[0]
    results.put(None if row is None else row["features"])


def test_workers_read_a_store_that_their_parent_has_read(tmp_path: Path):
    """A mapping or an open file that is shared with the parent gives the rows of another item, or hangs."""
    store = make_store(tmp_path / "store")
    texts = items(2, 1, image_id=["a", "b"]).remove_columns("image").rename_column("image_id", "video_id")
    split, _ = attach_features(texts, store)
    pairs = CaptionPairs(split, ["de"], vision_input="features")
    first = pairs[0]
    assert first is not None
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_first_features, args=(pairs, results))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert np.array_equal(results.get(), first["features"])
    # As a worker gets them that is started anew.
    again = pickle.loads(pickle.dumps(pairs))[0]
    assert again is not None and np.array_equal(again["features"], first["features"])
