"""What the libraries below show in the terminal of a run."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from transformers.utils import logging as transformers_logging


@contextmanager
def own_bars_alone() -> Iterator[None]:
    """Switch off the bars of the libraries, which break the bar of the steps at each checkpoint."""
    of_transformers = transformers_logging.is_progress_bar_enabled()  # with those of the Hub's client
    of_datasets = datasets.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if of_transformers:
            transformers_logging.enable_progress_bar()
        if of_datasets:
            datasets.enable_progress_bars()


def warn_once_of_many_workers() -> None:
    """Have torch say once that there are more data-loader workers than cores, not for each loader and each epoch."""
    warnings.filterwarnings("once", message="This DataLoader will create")
