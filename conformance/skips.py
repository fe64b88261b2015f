"""The common tests that LECCR does not run, each with its reason."""

OUR_SKIPS: dict[str, str] = {
    "SwinBertTest::test_enable_input_require_grads_with_gradient_checkpointing": (
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
