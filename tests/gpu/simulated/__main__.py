"""Runs the tests of this folder on a simulated GPU; arguments are those of pytest."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from tests.gpu.simulated import library


def main() -> int:
    """Build and load the library, then run the tests; returns pytest's exit code."""
    if not library.can_be_built():
        print("skipped: a simulated GPU needs Linux and a compiler of C++20 (g++ or clang++)")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        library.load(library.build(Path(folder)))
    here = str(Path(__file__).parent)
    return pytest.main(["-m", "devices", "-p", "no:xdist", here, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
