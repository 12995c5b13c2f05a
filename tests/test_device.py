"""Memory that networks free stays with the process, so that their next call need not ask the system for it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Prints how many pages the system had to map while the same blocks of memory were taken and freed again.
FAULTS = """
import ctypes, resource, sys
from toile.device import keep_freed_memory, stop_keeping_freed_memory
if sys.argv[1] != "return":
    keep_freed_memory()
if sys.argv[1] == "stop":
    stop_keeping_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def use():
    blocks = [library.malloc(2**26) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 1, 2**26)
    for block in blocks:
        library.free(block)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_freed_memory_is_kept_until_that_ends() -> None:
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, check=True).stdout)
        for mode in ("return", "keep", "stop")
    }
    assert faults["keep"] < 0.1 * faults["return"]
    assert faults["stop"] > 0.9 * faults["return"]
