"""Frame features in one file or in many: the right rows, the sizes checked, nothing run, little held in memory."""

import ast
import mmap
import multiprocessing
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from processing.readers import feature_store, frame_table
from processing.readers.feature_store import FeatureStore, NumpyStore, open_features
from processing.readers.frame_table import read_frame_table
from tests.caption_folders import write_store
from tests.mutations import survive

FRAMES = {"b": ["b_0", "b_1", "b_2"], "a": ["a_1", "a_0"], "c": ["c_0"]}
ORDER = ["a_0", "b_0", "c_0", "b_2", "a_1", "b_1"]  # Of the rows; as little sorted as the released files.
DIM = 4


def value(frame: str) -> np.ndarray:
    """What the row of a frame holds: a different number for each frame and column."""
    return (ORDER.index(frame) * 10 + np.arange(DIM)).astype(np.float32)


def make_store(folder: Path, *, frames: dict[str, list[str]] | None = FRAMES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.stack([value(frame) for frame in ORDER]).astype("<f4").tofile(folder / "feature.bin")
    (folder / "shape.txt").write_text(f"{len(ORDER)} {DIM}\n")
    (folder / "id.txt").write_text(" ".join(ORDER))
    if frames is not None:
        (folder / "video2frames.txt").write_text(str(frames))
    return folder


def make_numpy(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "two.npy", np.arange(2 * DIM, dtype=np.float32).reshape(1, 2, DIM))
    np.save(folder / "one.npy", np.arange(DIM, dtype=np.float16))
    return folder


def test_frames_of_a_video_come_in_the_order_of_the_table(tmp_path: Path):
    """Rows lie in another order than frames; sorting either mixes up time."""
    store = FeatureStore(make_store(tmp_path))
    assert store.ids == ["b", "a", "c"] and len(store) == 3 and store.dim == DIM and not store.missing
    for video, frames in FRAMES.items():
        found = store.frames_of(video)
        assert found.dtype == np.float32 and found.flags.writeable and found.shape == (len(frames), DIM)
        np.testing.assert_array_equal(found, np.stack([value(frame) for frame in frames]))


def test_without_a_table_each_row_is_an_item(tmp_path: Path):
    """Stores of images have no frames to join."""
    store = FeatureStore(make_store(tmp_path, frames=None))
    assert store.ids == ORDER
    for frame in ORDER:
        np.testing.assert_array_equal(store.frames_of(frame), value(frame)[None])


def test_a_random_store_agrees_with_a_dictionary(tmp_path: Path):
    """The join by sorted bytes has to find what a plain lookup finds, among ids that are prefixes of each other."""
    random = np.random.default_rng(3)
    names = sorted({f"v{number}" for number in random.integers(2000, size=500)}, key=lambda name: hash(name) % 97)
    rows = random.random((len(names), 3), dtype=np.float32)
    rows.tofile(tmp_path / "feature.bin")
    (tmp_path / "shape.txt").write_text(f"{len(names)} 3")
    (tmp_path / "id.txt").write_text("\n".join(names))
    table = {f"video {n}": [str(name) for name in random.choice(names, size=n % 7 + 1)] for n in range(60)}
    (tmp_path / "video2frames.txt").write_text(str(table))
    store, oracle = FeatureStore(tmp_path), dict(zip(names, rows, strict=True))
    for video, frames in table.items():
        np.testing.assert_array_equal(store.frames_of(video), [oracle[frame] for frame in frames])


def test_missing_frames_are_reported_and_the_others_given(tmp_path: Path):
    """The released reader leaves them out in silence, or stops in the middle of an epoch."""
    frames = {
        **FRAMES,
        "b": ["b_0", "absent", "b_2"],
        "d": ["d_0"],
        "e": [],
        "f": ["a_0 but much longer than any name"],
    }
    store = FeatureStore(make_store(tmp_path / "store", frames=frames))
    assert store.missing.to_dict() == {
        "a frame without features": {"store": ["b"]},
        "no features": {"store": ["d", "e", "f"]},
    }
    assert "b" in store and "d" not in store
    np.testing.assert_array_equal(store.frames_of("b"), [value("b_0"), value("b_2")])
    with pytest.raises(ValueError, match="no features of 'd'"):
        store.frames_of("d")


def test_a_store_is_read_in_forked_and_spawned_workers(tmp_path: Path):
    """A mapping or an open file that travels to a worker is the classic deadlock, or a copy of the whole file."""
    store = FeatureStore(make_store(tmp_path))
    expected = store.frames_of("b").tolist()
    assert len(pickle.dumps(store)) < 4000
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            results = pool.map_async(store.frames_of, ["b"] * 8).get(timeout=60)
        assert [result.tolist() for result in results] == [expected] * 8


def test_pages_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pages of a mapped file count as memory, so a long epoch would look like the whole file."""
    monkeypatch.setattr(feature_store, "_BYTES_UNTIL_RELEASE", 40)
    store = FeatureStore(make_store(tmp_path))
    for _ in range(5):
        for video, frames in FRAMES.items():
            np.testing.assert_array_equal(store.frames_of(video), [value(frame) for frame in frames])
            assert store._touched <= 40


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="the system does not tell what was read from the disk")
@pytest.mark.parametrize("in_order", [True, False])
def test_only_what_is_asked_for_is_read_from_the_disk(tmp_path: Path, in_order: bool):
    """A disk that reads eight megabytes ahead read fifty times the features of an epoch."""
    videos, frames, dim = 200, 10, 1024
    write_store(tmp_path, [f"v{number}" for number in range(videos)], frames=frames, dim=dim)
    ids = (tmp_path / "id.txt").read_text().split()
    random.Random(0).shuffle(ids)
    if not in_order:
        (tmp_path / "id.txt").write_text(" ".join(ids))
    descriptor = os.open(tmp_path / "feature.bin", os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    store, before = FeatureStore(tmp_path), read_from_disk()
    for number in range(0, videos, 20):
        store.frames_of(f"v{number}")
    # Ten items, of which each frame may touch a page more. Where the file never left the memory, nothing is read.
    assert read_from_disk() - before <= 10 * frames * (dim * 4 + mmap.PAGESIZE)


def read_from_disk() -> int:
    """Bytes that this process had read so far."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("shape.txt", "6", "shape.txt, line 1: expected two numbers"),
        ("shape.txt", "-6 -4", "shape.txt, line 1"),
        ("shape.txt", "6 5", "has 96 bytes, and 6 rows of 5"),
        ("shape.txt", "0 4", "has 96 bytes"),
        ("shape.txt", "9" * 5000 + " 4", "shape.txt, line 1"),
        ("id.txt", "a_0 b_0", "id.txt has 2 ids, and shape.txt names 6 rows"),
        ("id.txt", "a_0 b_0 c_0 b_2 a_0 b_1", "'a_0' occurs twice"),
        ("id.txt", "a_0 b_0 c_0 b_2 a_1 " + "b" * 600, "id.txt, line 1: an id has more than 512 bytes"),
        ("feature.bin", "short", "feature.bin has 5 bytes"),
        ("video2frames.txt", "__import__('os').system('touch ran')", "line 1, column 1: expected one dict"),
        ("video2frames.txt", "{'a': ['a_0'],\n'b': open('x').read()}", "line 2, column 1: expected one dict"),
        ("video2frames.txt", "{'a': ['a_0'] + ['b_0']}", "expected one dict"),
        ("video2frames.txt", "{'a': ['a_0']}; print(1)", "expected one dict"),
        ("video2frames.txt", "{'a': 'a_0'}", "expected one dict"),
        ("video2frames.txt", "{'a': [f'{1}']}", "expected one dict"),
        ("video2frames.txt", "{'a': [b'a_0']}", "expected one dict"),
        ("video2frames.txt", "{'a': ['a_0']", "expected one dict"),
        ("video2frames.txt", "", "expected one dict"),
        ("video2frames.txt", "{'a': ['a_0'],\n 'a': ['b_0']}", "line 2, column 2: the video 'a' occurs twice"),
        ("video2frames.txt", "{'../../a': ['a_0']}", "must be a path inside its folder"),
        ("video2frames.txt", "{'\\n': ['a_0']}", "has no name"),
        ("video2frames.txt", "{'a': ['\\N{no such letter}']}", "is no literal"),
    ],
)
def test_a_damaged_store_is_refused_by_file(tmp_path: Path, name: str, content: str, message: str):
    """Rows read at the wrong width are numbers like all others; nothing later would notice."""
    folder = make_store(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match="(?s)" + message.replace("(", r"\(")) as error:
        FeatureStore(folder)
    assert name in str(error.value)
    assert not (Path.cwd() / "ran").exists()


def test_a_store_without_a_file_and_one_with_double_items_are_refused(tmp_path: Path):
    """A download that stopped half-way has some of the files."""
    folder = make_store(tmp_path, frames=None)
    (folder / "id.txt").write_text("a_0 b_0 c_0 b_2 a_0 b_1")
    with pytest.raises(ValueError, match=r"id\.txt: 'a_0' occurs twice"):
        FeatureStore(folder)
    (folder / "id.txt").unlink()
    with pytest.raises(ValueError, match=r"lacks id\.txt"):
        open_features(folder)


def test_the_table_is_read_as_python_writes_it(tmp_path: Path):
    """Files come from Python 2 and 3, with either quote, escapes and a comma at the end."""
    path = tmp_path / "video2frames.txt"
    path.write_text("""\n{u'a': [u'a_0', "it's"],\n "b" : [ ] , 'c':['\\u00e9', 'x\\\\y',],}\n""")
    assert list(read_frame_table(path)) == [("a", ["a_0", "it's"]), ("b", []), ("c", ["é", "x\\y"])]
    path.write_text("{}")
    assert list(read_frame_table(path)) == []


def test_the_table_agrees_with_the_parser_of_python(tmp_path: Path):
    """Ids without escapes never reach the parser; quotes, brackets and a leading u must survive that."""
    draw = random.Random(0)
    signs = ["u", "'", '"', "[", "]", ",", ":", " ", "a", "é", "\\", "}", "\t"]
    table = {
        f"v{number}{''.join(draw.choices(signs[:8], k=3))}": [
            "".join(draw.choices(signs, k=draw.randrange(5))) for _ in range(draw.randrange(4))
        ]
        for number in range(300)
    }
    path = tmp_path / "video2frames.txt"
    path.write_text(str(table), encoding="utf-8")
    assert dict(read_frame_table(path)) == ast.literal_eval(path.read_text(encoding="utf-8")) == table
    path.write_bytes(b"{'a': ['b\rc']}")
    with pytest.raises(ValueError, match="no literal"):
        list(read_frame_table(path))


def test_a_table_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file is read into memory before it is looked at."""
    monkeypatch.setattr(frame_table, "MAX_BYTES", 20)
    path = tmp_path / "video2frames.txt"
    path.write_text(str(FRAMES))
    with pytest.raises(ValueError, match="more than 20"):
        list(read_frame_table(path))


def test_a_folder_of_arrays_has_the_same_interface(tmp_path: Path):
    """VATEX ships (1, frames, width); others leave the first axis out, or store half precision."""
    store = open_features(make_numpy(tmp_path / "deep" / "er"))
    assert isinstance(store, NumpyStore) and store.ids == ["one", "two"] and len(store) == 2 and store.dim == DIM
    assert "two" in store and "three" not in store and not store.missing
    np.testing.assert_array_equal(store.frames_of("two"), np.arange(8, dtype=np.float32).reshape(2, DIM))
    one = store.frames_of("one")
    assert one.dtype == np.float32 and one.shape == (1, DIM) and one.flags.writeable
    assert len(pickle.dumps(store)) < 4000
    with pytest.raises(ValueError, match="no features of 'three'"):
        store.frames_of("three")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, DIM), np.float32), "must hold"),
        (np.zeros((0, DIM), np.float32), "must hold"),
        (np.zeros((2, DIM), np.int64), "one array of floats"),
        (np.zeros((2, DIM + 1), np.float32), "of width 5"),
        (np.array([{"a": 1}], dtype=object), "not a readable .npy file"),
    ],
)
def test_an_array_of_another_form_is_refused_by_file(tmp_path: Path, array: np.ndarray, message: str):
    """A pickle in an array file runs code; another width breaks a batch without saying which file it was."""
    folder = make_numpy(tmp_path)
    np.save(folder / "two.npy", array, allow_pickle=True)
    store = NumpyStore(folder)
    with pytest.raises(ValueError, match=message) as error:
        store.frames_of("two")
    assert "two.npy" in str(error.value)


def test_linked_folders_of_arrays_are_read_and_hidden_files_are_not(tmp_path: Path):
    """A split on another disk would have no features; macOS puts ._one.npy beside one.npy."""
    folder = make_numpy(tmp_path / "features")
    (tmp_path / "disk").mkdir()
    np.save(tmp_path / "disk" / "far.npy", np.zeros((2, DIM), np.float32))
    before = NumpyStore(folder).ids
    (folder / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    (folder / "._one.npy").write_bytes(b"x")
    assert NumpyStore(folder).ids == sorted([*before, "far"])


class Opening:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return self.mark.touch, ()


def test_a_pickle_under_the_name_of_an_array_is_not_opened(tmp_path: Path):
    """NumPy unpickles a file that is no array, where it is allowed to."""
    folder, mark = make_numpy(tmp_path), tmp_path / "ran"
    (folder / "two.npy").write_bytes(pickle.dumps(Opening(mark)))
    with pytest.raises(ValueError, match=r"two\.npy is not a readable \.npy file"):
        NumpyStore(folder).frames_of("two")
    assert not mark.exists()


def test_a_folder_without_arrays_or_with_two_of_one_name_is_refused(tmp_path: Path):
    """Ids are file names, so one of two equal names would hide the other."""
    with pytest.raises(ValueError, match="holds neither"):
        open_features(tmp_path)
    make_numpy(tmp_path / "one")
    make_numpy(tmp_path / "two")
    with pytest.raises(ValueError, match="have one name"):
        open_features(tmp_path)


@pytest.mark.parametrize("name", ["shape.txt", "id.txt", "video2frames.txt"])
def test_damaged_text_files_give_a_store_or_a_value_error(tmp_path: Path, name: str):
    """A traceback from deep inside names neither file nor remedy."""
    folder = make_store(tmp_path)

    def read() -> None:
        store = FeatureStore(folder)
        assert all(store.frames_of(item).shape[1] == store.dim for item in store.ids)

    assert survive(folder / name, read, 400) > 100


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_damaged_arrays_give_features_or_a_value_error(tmp_path: Path):
    """The header of an array file is Python text that NumPy parses."""
    folder = make_numpy(tmp_path)

    def read() -> None:
        store = NumpyStore(folder)
        assert store.frames_of("one").shape == (1, DIM)

    assert survive(folder / "two.npy", lambda: NumpyStore(folder).frames_of("two"), 400) > 100
    assert survive(folder / "one.npy", read, 200) > 20
