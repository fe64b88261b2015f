"""Many texts in one block of memory."""

from collections.abc import Iterable

import numpy as np


class PackedTexts:
    """A list of texts that the workers of a data loader share.

    Whoever looks at a Python string writes its count of references, and with it to a page of memory, which is then
    copied: bit by bit each forked worker would get a list of strings of its own.

    Args:
        texts: any number of them; None stays None.
    """

    def __init__(self, texts: Iterable[str | None]) -> None:
        # A text may hold half a character, which JSON can spell.
        encoded = [None if text is None else text.encode(errors="surrogatepass") for text in texts]
        self._is_none = np.array([text is None for text in encoded], dtype=bool)
        self._ends = np.cumsum([0 if text is None else len(text) for text in encoded], dtype=np.int64)
        self._bytes = b"".join(text for text in encoded if text is not None)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self._ends)

    def __getitem__(self, index: int) -> str | None:
        """A text; counted from the end where the index is negative.

        Raises:
            IndexError: the index is out of range.
        """
        position = range(len(self))[index]
        if self._is_none[position]:
            return None
        start = int(self._ends[position - 1]) if position else 0
        return self._bytes[start : int(self._ends[position])].decode(errors="surrogatepass")
