"""The common tests that LECCR does not run, each with its reason."""

from collections.abc import Iterable, Mapping

OUR_SKIPS: dict[str, str] = {
    "SwinBertTest::test_enable_input_require_grads_with_gradient_checkpointing": (
        "the patch embedding of Swin returns a tuple, which the hook of transformers cannot take"
    ),
    "Cl2cmSwinXlmRobertaTest::test_enable_input_require_grads_with_gradient_checkpointing": (
        "the patch embedding of Swin returns a tuple, which the hook of transformers cannot take"
    ),
    "LeccrProcessorTest::test_init_arguments_not_in_processor_kwargs": (
        "max_length and padding are saved with the processor, so that every user gets the tensors of training, and "
        "can be set for one call as well"
    ),
    "LeccrProcessorTest::test_subprocessor_defaults_preserved_by_kwargs_0_images": (
        "the processor's own max_length and padding hold, not those that its tokenizer was made with"
    ),
    "LeccrProcessorTest::test_processor_text_has_no_visual": (
        "an item is one image; there are no lists of images that belong to one text"
    ),
}


def check_skips(skips: Iterable[str], classes: Mapping[str, type], *, is_whole: bool) -> None:
    """Refuse an entry that names no test any more.

    Args:
        skips: entries as of `OUR_SKIPS`.
        classes: the classes of the collected files by name.
        is_whole: all files were collected, so that an unknown class does not exist.

    Raises:
        ValueError: the class or the test of an entry does not exist.
    """
    for key in skips:
        class_name, _, test = key.partition("::")
        if class_name not in classes and not is_whole:
            continue
        if not hasattr(classes.get(class_name), test):
            raise ValueError(f"conformance/skips.py names {key}, which does not exist; correct or remove it.")
