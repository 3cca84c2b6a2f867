"""Builds and loads the small library that lets a CPU build of torch name a CUDA device.

This module does not import torch, which asks for what is in the library once, at its import.
"""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")


def can_be_built() -> bool:
    """Whether this machine has what `build` needs: Linux, and a compiler that knows C++20."""
    compiler = _compiler()
    if sys.platform != "linux" or compiler is None:
        return False
    words = [compiler, "-std=c++20", "-fsyntax-only", "-x", "c++", "/dev/null"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def build(folder: Path) -> Path:
    """Compile the library, which takes some two seconds; returns its file.

    Args:
        folder: gets the library.

    Raises:
        RuntimeError: the compiler refuses the source.
    """
    compiler, torch = _compiler(), _torch_folder()
    assert compiler is not None
    library = folder / "guard.so"
    words = ["-shared", "-fPIC", "-std=c++20", f"-I{torch / 'include'}", str(SOURCE)]
    libraries = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    done = subprocess.run(
        [compiler, *words, "-o", str(library), *libraries],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{compiler} refuses {SOURCE}: {done.stderr[-2000:]}")
    return library


def load(library: Path) -> None:
    """Load the library and those of torch that it needs, before torch is imported."""
    assert "torch" not in sys.modules, "torch has been imported already"
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(_torch_folder() / "lib" / name), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))


def _compiler() -> str | None:
    """The path of a C++ compiler, if there is one."""
    return shutil.which("g++") or shutil.which("clang++")


def _torch_folder() -> Path:
    """Where torch is installed."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent
