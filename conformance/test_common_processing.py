"""The common tests of processors, on LECCR."""

import unittest
from typing import Any

import numpy as np
from transformers_tests.test_processing_common import ProcessorTesterMixin

from processing.processing_leccr import LeccrProcessor
from tests.tiny import tiny_processor


class LeccrProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    """The common tests; a method here stands for the one of the same name there, and says why."""

    processor_class = LeccrProcessor

    @classmethod
    def _setup_image_processor(cls) -> Any:
        return tiny_processor().image_processor

    @classmethod
    def _setup_tokenizer(cls) -> Any:
        return tiny_processor().tokenizer

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        return {"max_length": 24, "clean_captions": True, "max_words": 7}

    def test_model_input_names(self) -> None:
        """The common test gives no descriptions, and pictures beside videos."""
        processor = self.get_processor()
        text, image = self.prepare_text_inputs(), self.prepare_images_inputs()
        names = [*processor(images=image, text=text, descriptions=text), *processor(features=[[[1.0]]])]
        assert names == processor.model_input_names

    def test_flat_kwarg_applied_when_modality_dict_lacks_it(self) -> None:
        """The common test gives pictures and videos at once."""
        processor = self.get_processor()
        text, image = self.prepare_text_inputs(), self.prepare_images_inputs()
        for inputs in (
            processor(images=image, text=text, text_kwargs={}, return_tensors="np"),
            processor(features=[[[1.0]], [[1.0], [2.0]]], text=text, text_kwargs={}, return_tensors="np"),
        ):
            assert {type(value) for value in inputs.values()} == {np.ndarray}
