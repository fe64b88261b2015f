"""The index: exact search, saving and loading, and the model it belongs to."""

import json

import pytest
import torch
from torch.nn.functional import normalize

from retrieval.encode import encode_items, encode_texts
from retrieval.evaluation import item_composites
from retrieval.index import ItemIndex, is_index
from retrieval.results import format_table, search_index
from tests.tiny import SENTENCES, tiny_image, tiny_model, tiny_processor


def make_rows(num_items=8):
    return [
        {"image": tiny_image(i), "image_id": f"picture-{i}", "description": SENTENCES[i][2]} for i in range(num_items)
    ]


@pytest.mark.parametrize("chunk_size", [1, 3, 64])
@pytest.mark.parametrize("top_k", [1, 4, 50])
def test_search_equals_the_full_sort(chunk_size, top_k):
    """Merging the best of each chunk must lose nothing at a chunk's border."""
    composites, queries = normalize(torch.randn(23, 3, 8), dim=-1), normalize(torch.randn(5, 8), dim=-1)
    scores, positions = ItemIndex(composites, [str(i) for i in range(23)]).search(queries, top_k, chunk_size=chunk_size)
    full = torch.tensor([[max(float(v @ q) for v in item) for item in composites] for q in queries])
    expected = full.sort(dim=1, descending=True)
    torch.testing.assert_close(scores, expected.values[:, :top_k])
    assert torch.equal(positions, expected.indices[:, :top_k])


def test_many_queries_are_searched_in_parts(monkeypatch):
    """A whole data set of queries at once must not need queries x items memory, and must keep its order."""
    monkeypatch.setattr("retrieval.index.QUERIES_AT_A_TIME", 3)
    composites, queries = normalize(torch.randn(9, 1, 8), dim=-1), normalize(torch.randn(7, 8), dim=-1)
    index = ItemIndex(composites, list("abcdefghi"))
    assert torch.equal(index.search(queries, 1)[1][:, 0], (queries @ composites[:, 0].T).argmax(dim=1))


def test_equal_items_come_in_their_order():
    """Duplicates would change places between runs."""
    index = ItemIndex(torch.ones(6, 1, 4) / 2, list("abcdef"))
    assert index.search(torch.ones(1, 4) / 2, 6, chunk_size=2)[1].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_saved_index_gives_the_same_hits(tmp_path):
    """Save, load, search: same scores, same ids, same settings."""
    model, processor = tiny_model(), tiny_processor()
    index = ItemIndex.build(model, processor, make_rows(), progress=False, source={"location": "pictures"})
    folder = tmp_path / "a" / "index"
    index.save(folder)
    loaded = ItemIndex.load(folder)
    assert is_index(folder)
    assert torch.equal(loaded.composites, index.composites)
    assert list(loaded.item_ids) == [f"picture-{i}" for i in range(8)]
    assert loaded.settings == index.settings
    assert loaded.settings["source"] == {"location": "pictures"}
    queries = ["ein roter ball", "die schwarze katze"]
    assert search_index(loaded, model, processor, queries) == search_index(index, model, processor, queries)


def test_saving_again_replaces_the_index_and_leaves_nothing_else(tmp_path):
    """A second run must neither fail nor leave temporary folders."""
    folder = tmp_path / "index"
    ItemIndex(torch.randn(4, 1, 3), list("abcd")).save(folder)
    ItemIndex(torch.randn(2, 1, 3), list("ab")).save(folder)
    assert list(ItemIndex.load(folder).item_ids) == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    """`--save-index` on the folder of pictures must not delete the pictures."""
    (tmp_path / "holiday.jpg").write_bytes(b"picture")
    with pytest.raises(ValueError, match="exists and is not an index"):
        ItemIndex(torch.randn(4, 1, 3), list("abcd")).save(tmp_path)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"picture"


def test_a_failed_save_keeps_the_old_index(tmp_path):
    """A run that is stopped while it saves leaves the index of the run before."""
    folder = tmp_path / "index"
    ItemIndex(torch.randn(4, 1, 3), list("abcd")).save(folder)
    with pytest.raises(TypeError):
        ItemIndex(torch.randn(2, 1, 3), list("ab"), {"scoring": object()}).save(folder)
    assert len(ItemIndex.load(folder).item_ids) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_broken_index_folders_are_refused(tmp_path):
    """Each message says what is wrong with the folder."""
    with pytest.raises(ValueError, match=r"lacks \['index.json', 'index.safetensors'\]"):
        ItemIndex.load(tmp_path)
    folder = tmp_path / "index"
    ItemIndex(torch.randn(3, 1, 4), list("abc")).save(folder)
    settings = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(settings | {"item_ids": ["a"]}))
    with pytest.raises(ValueError, match="1 ids"):
        ItemIndex.load(folder)
    (folder / "index.json").write_text(json.dumps(settings | {"format": 99}))
    with pytest.raises(ValueError, match="index format 99"):
        ItemIndex.load(folder)
    (folder / "index.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks \['index.safetensors'\]"):
        ItemIndex.load(folder)


def test_bad_queries_are_refused():
    """A query of another width or a NaN must not look like a search without hits."""
    index = ItemIndex(torch.randn(3, 1, 4), list("abc"))
    with pytest.raises(ValueError, match=r"query_embeds must be \(num_queries, 4\)"):
        index.search(torch.randn(2, 5), 3)
    with pytest.raises(ValueError, match="must be at least 1"):
        index.search(torch.randn(2, 4), 0)
    with pytest.raises(ValueError, match="query_embeds has NaN"):
        index.search(torch.full((1, 4), torch.nan), 3)
    with pytest.raises(ValueError, match="composites has NaN"):
        ItemIndex(torch.full((1, 1, 4), torch.nan), ["a"])


def test_another_model_cannot_search_the_index():
    """Vectors of the same width from another model give confident nonsense."""
    processor = tiny_processor()
    index = ItemIndex.build(tiny_model(seed=0), processor, make_rows(), progress=False)
    with pytest.raises(ValueError, match="made with another model"):
        search_index(index, tiny_model(seed=1), processor, ["ein roter ball"])


@pytest.mark.parametrize("scoring", ["fused", "global", "slots"])
def test_hits_have_the_scores_of_evaluation(scoring):
    """Search and evaluation share one definition of a score."""
    model, processor, rows = tiny_model(), tiny_processor(), make_rows()
    index = ItemIndex.build(model, processor, rows, scoring=scoring, progress=False)
    images, slots = encode_items(model, processor, rows, progress=False)
    composites = item_composites(images, slots, scoring=scoring, global_weight=model.config.global_weight)
    query = encode_texts(model, processor, ["ein roter ball"], progress=False)
    [result] = search_index(index, model, processor, ["ein roter ball"], top_k=8)
    expected = torch.einsum("ikd,qd->qik", composites, query).amax(dim=-1)[0]
    for hit in result.hits:
        assert hit.score == pytest.approx(float(expected[hit.position]), abs=1e-5)
        assert hit.item_id == f"picture-{hit.position}"


def test_search_refuses_blank_queries_and_uneven_lists():
    """A blank query embeds as something and finds something."""
    index, model, processor = ItemIndex(torch.randn(3, 1, 16), list("abc")), tiny_model(), tiny_processor()
    with pytest.raises(ValueError, match="queries is empty"):
        search_index(index, model, processor, [])
    with pytest.raises(ValueError, match="query 1 is blank"):
        search_index(index, model, processor, ["ball", "  "])
    with pytest.raises(ValueError, match="must be of one length"):
        search_index(index, model, processor, ["ball"], languages=["de", "fr"])


def test_the_table_shows_query_language_rank_and_the_correct_item():
    """What a user reads in the terminal."""
    index, model, processor = ItemIndex(torch.randn(3, 1, 16), list("abc")), tiny_model(), tiny_processor()
    [result] = search_index(index, model, processor, ["roter ball"], top_k=3, languages=["de"], correct_ids=["b"])
    lines = format_table([result]).splitlines()
    assert lines[0] == "[de] roter ball"
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]
    assert sum(line.endswith("b *") for line in lines) == 1
