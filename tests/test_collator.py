import pytest
import torch
from processing_parts import items, tiny_processor
from torch.utils.data import DataLoader

from processing.augmentation import RandomResizedCrop
from processing.collator import LeccrCollator
from processing.pairs import CaptionPairs

KEYS = {
    "pixel_values",
    "source_input_ids",
    "source_attention_mask",
    "target_input_ids",
    "target_attention_mask",
    "description_input_ids",
    "description_attention_mask",
    "image_ids",
    "item_names",
    "num_skipped",
}


def _row(item: int = 0, **changes) -> dict:
    row = CaptionPairs(items(4, 1), ["de"])[item]
    assert row is not None
    return row | changes


def test_a_batch_has_the_keys_and_shapes_of_the_model():
    """A renamed key is a TypeError in the forward pass, or worse, an ignored input."""
    pairs = CaptionPairs(items(3, 2), ["de", "zh"])
    batch = LeccrCollator(tiny_processor(size=8))([pairs[i] for i in range(12)])
    assert set(batch) == KEYS and type(batch) is dict
    assert batch["pixel_values"].shape == (12, 3, 8, 8) and batch["pixel_values"].dtype == torch.float32
    for group in ("source", "target", "description"):
        assert batch[f"{group}_input_ids"].shape == batch[f"{group}_attention_mask"].shape
        assert batch[f"{group}_input_ids"].shape[0] == 12 and batch[f"{group}_input_ids"].dtype == torch.int64


def test_captions_of_one_image_share_an_image_id():
    """With an id of its own, the second caption of an image is a false negative."""
    pairs = CaptionPairs(items(3, 2), ["de", "zh"])
    batch = LeccrCollator(tiny_processor())([pairs[i] for i in range(12)])
    assert batch["image_ids"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert batch["image_ids"].dtype == torch.int64


def test_padding_of_a_batch_does_not_change_a_row():
    """Ids that depend on the neighbours make embeddings that depend on them too."""
    long = {"source_caption": "dog " * 20, "target_caption": "hund " * 20, "description": "a ladder " * 20}
    collator = LeccrCollator(tiny_processor())
    alone, together = collator([_row(0), _row(1)]), collator([_row(0), _row(1, **long)])
    for group in ("source", "target", "description"):
        length = alone[f"{group}_input_ids"].shape[1]
        assert together[f"{group}_input_ids"].shape[1] > length
        assert torch.equal(together[f"{group}_input_ids"][0, :length], alone[f"{group}_input_ids"][0])
        assert together[f"{group}_attention_mask"][0, length:].sum() == 0
        assert (together[f"{group}_input_ids"][0, length:] == 0).all()


def test_a_missing_description_is_an_all_zero_row():
    """The model takes its null description where no token is real."""
    for nothing in (None, "", "  "):
        batch = LeccrCollator(tiny_processor())([_row(0), _row(1, description=nothing)])
        assert batch["description_attention_mask"].sum(dim=1).tolist()[1] == 0
        assert batch["description_attention_mask"].sum(dim=1).tolist()[0] > 2
        assert (batch["description_input_ids"][1] == 0).all()


def test_a_batch_without_any_description_has_rows_of_zeros():
    """Where one process of several left the key out, its description projection would get no gradient: DDP stalls."""
    batch = LeccrCollator(tiny_processor())([_row(0, description=None), _row(1, description="")])
    assert set(batch) == KEYS
    assert batch["description_attention_mask"].sum() == 0


def test_skipped_rows_are_dropped_and_counted():
    """A run that lost a tenth of its images must say so, wherever its batches were made."""
    collator = LeccrCollator(tiny_processor())
    batch = collator([_row(0), None, _row(2), None])
    assert batch["image_ids"].tolist() == [0, 2] and batch["num_skipped"] == 2
    assert collator([_row(0), _row(1)])["num_skipped"] == 0


def test_a_batch_names_the_items_of_its_rows():
    """A loss that is not finite is traced to pictures and texts by these names."""
    pairs = CaptionPairs(items(3, 1), ["de"])
    batch = LeccrCollator(tiny_processor())([pairs[2], None, pairs[0]])
    assert batch["item_names"] == [pairs.image_ids[2], pairs.image_ids[0]]


@pytest.mark.parametrize("rows", [[None, None], [None], []])
def test_fewer_than_two_rows_are_refused(rows: list):
    """A contrastive loss over one row is zero, with zero gradient, and looks perfect."""
    for batch in (rows, [*rows, _row(0)]):
        with pytest.raises(ValueError, match="at least 2 rows"):
            LeccrCollator(tiny_processor())(batch)


def test_augmentation_gets_the_picture_and_its_size_survives():
    """Augmentation after normalisation, or a second resize of the augmented picture, blurs what is trained on."""
    crop = RandomResizedCrop(8, scale=(1.0, 1.0), ratio=(1.5, 1.5), flip=False)  # the whole 24 x 16 picture
    processor = tiny_processor(size=8)
    rows = [_row(0, draw=0), _row(1, draw=1)]
    batch = LeccrCollator(processor, augmentation=crop)(rows)
    expected = processor(images=[crop(row["image"], row["draw"]) for row in rows])["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)
    unchanged = processor.image_processor(images=[crop(row["image"], row["draw"]) for row in rows], do_resize=False)
    for got, plain in zip(batch["pixel_values"], unchanged["pixel_values"], strict=True):
        torch.testing.assert_close(got, torch.as_tensor(plain, dtype=got.dtype))


def test_a_seeded_loader_gives_the_same_epoch_with_and_without_workers():
    """Each pair once an epoch, in an order that the seed alone decides."""
    pairs = CaptionPairs(items(5, 2), ["de"])
    epochs = []
    for num_workers in (0, 1):
        loader = DataLoader(
            pairs,
            batch_size=4,
            shuffle=True,
            collate_fn=LeccrCollator(tiny_processor()),
            generator=torch.Generator().manual_seed(5),
            num_workers=num_workers,
        )
        epochs.append([batch["image_ids"].tolist() for batch in loader])
    assert epochs[0] == epochs[1]
    assert sorted(image_id for batch in epochs[0] for image_id in batch) == sorted(list(range(5)) * 2)
