"""Freed memory that stays with the process is not asked for again."""

from __future__ import annotations

import subprocess
import sys

import pytest

from g2rl.training.host_memory import OWN_SETTINGS, keep_freed_memory

ROUNDS = """
import resource
import sys

import numpy as np

from g2rl.training.host_memory import keep_freed_memory


def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    before = page_faults()
    pieces = [np.ones(750_000, np.float32) for _ in range(40)]
    del pieces
print(page_faults() - before)
"""


def faults_of_a_later_round(choice: str) -> int:
    result = subprocess.run(
        [sys.executable, "-c", ROUNDS, choice], capture_output=True, text=True, check=True
    )
    return int(result.stdout)


@pytest.mark.skipif(not keep_freed_memory({}), reason="another C library than GNU's")
def test_what_was_freed_is_there_for_the_next_step() -> None:
    """40 pieces of 3 MB are 29,000 pages."""
    assert faults_of_a_later_round("keep") < 300
    assert faults_of_a_later_round("return") > 10_000


@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_a_user_s_own_settings_stay(name: str) -> None:
    assert not keep_freed_memory({name: "131072"})


def test_another_c_library_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory({})
