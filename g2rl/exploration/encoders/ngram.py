"""Hashed n-gram counts: an encoder without weights, for tests, CPU runs and as a baseline.

Feature hashing after Weinberger et al. 2009 (arXiv 0902.2206), with one departure: counts are not
given random signs. Signs make inner products unbiased but can cancel a text to zero; without them
every cosine lies in [0, 1], which is the range EVOL-RL clips to, and a collision can only add
similarity.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from g2rl.exploration.encoders.encoder import checked_unit_rows, is_empty, scatter_rows

_WORD = re.compile(r"\w+|[^\w\s]")


def bucket(gram: str, width: int) -> int:
    """The column of an n-gram: its 8-byte BLAKE2b digest (big-endian) modulo `width`.

    Python's own hash() is salted per process, so it would give another embedding in every run.
    """
    digest = hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % width


class NgramHashing:
    """Counts of word or character n-grams, hashed to `width` columns and divided by their L2 norm.

        v[h] = number of n-grams of the text with bucket(gram) = h,   row = v / ||v||

    Words are runs of letters, digits and underscore; every other visible character is a word of its
    own ("3+4" has three), so a text that is not empty has at least one unigram. Characters are
    taken as they stand, each run of white space as one blank. Case is kept: x and X differ in
    mathematics. A text too short for the largest n contributes its shorter n-grams.

    Args:
        n: lengths of the n-grams; must contain 1, so that no visible text is left without a gram.
        width: columns E. Around 1,000 distinct n-grams collide a lot at 1,024; widen it for long
            texts.
        unit: "word" or "char".

    Raises:
        ValueError: n without 1 or with values below 1, width < 1, another unit.
    """

    def __init__(self, n: Sequence[int] = (1, 2, 3), width: int = 1024, unit: str = "word") -> None:
        # refuse what would leave texts without a row
        if 1 not in n or min(n) < 1:
            raise ValueError(f"n must hold lengths >= 1 and among them 1, got {tuple(n)}")
        if width < 1:
            raise ValueError(f"width must be >= 1, got {width}")
        if unit not in ("word", "char"):
            raise ValueError(f'unit must be "word" or "char", got {unit!r}')

        self.lengths = tuple(sorted(set(n)))
        self.width = width
        self.unit = unit
        self.name = f"ngram-{unit}-{width}"

    def grams(self, text: str) -> Counter[str]:
        """How often each n-gram occurs in the text, under keys "n:gram".

        The words of a gram are joined by a blank. The length is part of the key, so that the
        character bigram "ab" is not the word "ab".
        """
        # words or characters
        if self.unit == "word":
            units, glue = _WORD.findall(text), " "
        else:
            units, glue = list(" ".join(text.split())), ""

        # every window of every length
        counts: Counter[str] = Counter()
        for n in self.lengths:
            for start in range(len(units) - n + 1):
                gram = glue.join(units[start : start + n])
                counts[f"{n}:{gram}"] += 1
        return counts

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, width) float32, unit rows; zero rows for empty texts. See `Encoder.encode`."""
        full = [i for i, text in enumerate(texts) if not is_empty(text)]

        # grams that share a bucket add up
        counts_ME = torch.zeros(len(full), self.width)
        for row, i in enumerate(full):
            grams = self.grams(texts[i])
            columns = torch.tensor([bucket(gram, self.width) for gram in grams])
            counts = torch.tensor(list(grams.values()), dtype=torch.float32)
            counts_ME[row].index_add_(0, columns, counts)

        # empty texts get their zero rows back
        unit_ME = checked_unit_rows(counts_ME, full, self.name)
        return scatter_rows(unit_ME, full, len(texts))
