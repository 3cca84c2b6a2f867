"""Freed memory that stays with the process is not asked for again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from g2rl.training import host_memory
from g2rl.training.host_memory import OWN_SETTINGS, keep_freed_memory
from tests.support import in_this_thread

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
    monkeypatch.setattr(platform, "libc_ver", in_this_thread(platform.libc_ver, lambda: ("", "")))
    assert not keep_freed_memory({})


LARGE_PAGES = """
import mmap
import re
from pathlib import Path

import numpy as np

from g2rl.training.host_memory import keep_freed_memory, large_pages

assert keep_freed_memory({})
held = [np.ones(750_000, np.float32) for _ in range(40)]
shares = re.findall(r"AnonHugePages: +([0-9]+) kB", Path("/proc/self/smaps").read_text())
print(large_pages(), sum(map(int, shares)))

# as many as the machine has for anybody who asks
place = mmap.mmap(-1, 128 << 20)
place.madvise(mmap.MADV_HUGEPAGE)
place.write(bytes(len(place)))
later = re.findall(r"AnonHugePages: +([0-9]+) kB", Path("/proc/self/smaps").read_text())
print(sum(map(int, later)) - sum(map(int, shares)))
"""


def gives_large_pages() -> bool:
    """Whether Linux gives large pages to memory that asks for them."""
    choices = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return choices.exists() and "[never]" not in choices.read_text()


@pytest.mark.skipif(not gives_large_pages(), reason="no large pages")
def test_tensors_lie_in_large_pages() -> None:
    """40 pieces of 3 MB, of which a sixth at least lies in pages of 2 MiB."""
    result = subprocess.run(
        [sys.executable, "-c", LARGE_PAGES], capture_output=True, text=True, check=True
    )
    asked_bytes, large_kib, free_kib = map(int, result.stdout.split())
    assert asked_bytes > 900 << 20
    if free_kib < 120_000:
        pytest.skip("the memory of this machine is in small pieces at present")
    assert large_kib > 20_000


def test_a_heap_of_which_nothing_is_known_asks_for_no_large_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_memory, "_heap_range", lambda: (0, 0))
    assert host_memory.large_pages.__wrapped__() == 0


def test_memory_that_is_refused_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library = host_memory._memory_functions()
    monkeypatch.setattr(library, "malloc", lambda size: None)
    monkeypatch.setattr(host_memory, "_memory_functions", lambda: library)
    assert host_memory.large_pages.__wrapped__() == 0


BESIDE_THE_HEAP = """
import mmap
import re
import resource
import sys
from pathlib import Path

from g2rl.training.host_memory import keep_freed_memory


def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))


for limit_mib in map(int, sys.argv[1:]):
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mib << 20, limit_mib << 20))
assert keep_freed_memory()
place = mmap.mmap(-1, 100_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(len(place), kib("VmRSS"))
"""


def mapped_and_resident(limit_mib: int | None, **more: str) -> list[int]:
    result = subprocess.run(
        [sys.executable, "-c", BESIDE_THE_HEAP, *([str(limit_mib)] if limit_mib else [])],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **more},
    )
    return [int(word) for word in result.stdout.split()]


@pytest.mark.skipif(not keep_freed_memory({}), reason="another C library than GNU's")
def test_a_limit_of_memory_is_not_used_up_by_the_heap() -> None:
    """Memory that is mapped, as the stacks of threads are, finds room beside it."""
    assert mapped_and_resident(800)[0] == 100_000_000


@pytest.mark.skipif(not keep_freed_memory({}), reason="another C library than GNU's")
def test_a_library_that_fills_memory_fills_nothing_in_vain() -> None:
    assert mapped_and_resident(None, MALLOC_PERTURB_="165")[1] < 400_000
