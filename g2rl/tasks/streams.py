"""Random streams that are named by a key, the same on every machine.

Problem number i of a stream must be a function of (seed, i) alone, so every problem draws from a
stream of its own.
"""

from __future__ import annotations

from random import Random


def stream(*key: int) -> Random:
    """A random stream named by its key.

    It is the same on every machine, because `Random` hashes a string by SHA-512.
    """
    return Random("/".join(map(str, key)))
