"""LeccrCollator: rows of CaptionPairs → the tensors of one training step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from processing.augmentation import draw_of
from processing.description_states import DescriptionStates
from processing.processing_leccr import LeccrProcessor
from processing.visual_rows import as_processor_inputs


class LeccrCollator:
    """Batches rows: source and target captions, what rows have of pictures (or frames, or features of frames) and
    descriptions, and the ids that tell positives apart.

    Args:
        processor: turns pictures and texts into tensors.
        augmentation: applied to each picture, with the draw of its row, before the processor; none for evaluation. All
            frames of a clip have the draw of its row, so that they are cut and mirrored alike.
        description_states: token states that are read in place of the descriptions; none for a model that encodes them.
        captions_are_items: rows whose English captions have the same tokens are positives of each other, whatever
            pictures they show; for a network that learns from texts alone.
    """

    def __init__(
        self,
        processor: LeccrProcessor,
        *,
        augmentation: Callable[[Image.Image, int], Image.Image] | None = None,
        description_states: DescriptionStates | None = None,
        captions_are_items: bool = False,
    ) -> None:
        self.processor = processor
        self.captions_are_items = captions_are_items
        self.description_states = description_states
        self.augmentation = augmentation

    def __call__(self, rows: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
        """One batch; rows that are None (a skipped corrupt image) are dropped and counted.

        Returns:
            `source_input_ids`, `source_attention_mask`, `target_input_ids`, `target_attention_mask` (batch, length),
            each group padded to its longest; of rows with pictures `pixel_values` (batch, channels, height, width), of
            rows with frames or features what `LeccrProcessor` makes of them, with `frame_mask`;
            of rows with descriptions `description_input_ids` (or `description_states`), `description_attention_mask`,
            a row of zeros where one is missing;
            `image_ids` (batch,) int64, equal for captions of one image, or for equal English captions. Beside these
            tensors `item_names`, the `image_id` of each row, and `num_skipped`, the rows that this batch lost: in the
            batch and not in the collator, because the workers of a data loader have collators of their own.

        Raises:
            ValueError: fewer than 2 rows are left: a contrastive loss needs a negative. Or a description has no states.
        """
        kept = [row for row in rows if row is not None]
        if len(kept) < 2:
            raise ValueError(
                f"a batch must hold at least 2 rows for a contrastive loss, got {len(kept)} after {len(rows)} rows "
                f"lost those with corrupt images; raise the batch size, drop the last batch, or repair the images."
            )
        descriptions = [row["description"] for row in kept] if "description" in kept[0] else None
        sources = self.processor(
            **as_processor_inputs([self._augmented(row) for row in kept]),
            text=[row["source_caption"] for row in kept],
            descriptions=descriptions if self.description_states is None else None,
        )
        targets = self.processor(text=[row["target_caption"] for row in kept])
        batch: dict[str, Any] = dict(sources)
        for key in ("input_ids", "attention_mask"):
            batch[f"source_{key}"] = batch.pop(key)
            batch[f"target_{key}"] = targets[key]
        ids = _caption_ids(batch) if self.captions_are_items else [row["item_index"] for row in kept]
        batch["image_ids"] = torch.tensor(ids, dtype=torch.int64)
        batch["item_names"] = [row["image_id"] for row in kept]
        if self.description_states is not None and descriptions is not None:
            batch |= self.description_states.batch(descriptions, batch["item_names"])
        batch["num_skipped"] = len(rows) - len(kept)
        return batch

    def _augmented(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """A row with its picture or frames as training sees them; features stay as they are."""
        if self.augmentation is None:
            return row
        if "image" in row:
            return {**row, "image": self.augmentation(row["image"], row["draw"])}
        if "frames" in row:
            return {**row, "frames": [self.augmentation(frame, row["draw"]) for frame in row["frames"]]}
        return row


def _caption_ids(batch: Mapping[str, torch.Tensor]) -> list[int]:
    """A number for each English caption, the same for captions that the network cannot tell apart."""
    # Not the positions of captions: the same sentence may stand below several pictures.
    rows = zip(batch["source_input_ids"], batch["source_attention_mask"], strict=True)
    return [draw_of(*tokens[mask.bool()].tolist()) for tokens, mask in rows]
