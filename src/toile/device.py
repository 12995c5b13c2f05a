"""Where networks run, in which precision, in what kind of memory; "auto" is resolved here, and the answer told."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from toile.errors import ToileError

CPU = torch.device("cpu")
_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
# Of glibc's malloc.h: a free end of the heap from that size on is given back; blocks from this size on are mapped one
# by one.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_USUAL_BYTES = 2**20  # smaller blocks are kept: mapping each anew would cost judging two fifths of its time more
_KEPT_BYTES = 2**30
_MADV_PAGEOUT = 21  # of Linux 5.4 and later; others refuse it
_MADV_DONTNEED = 4

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def choose_device(name: str = "auto") -> torch.device:
    """The device of a name.

    Args:
        name: "auto" (cuda if there is one, else mps, else cpu), "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ToileError: no such device, or it is not available here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ToileError(f"device {name!r} is unknown; allowed: auto, cpu, cuda, cuda:N, mps") from error
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": _has_mps(),
    }
    if not available.get(device.type, False):
        here = ", ".join(kind for kind, present in available.items() if present)
        raise ToileError(f"device {name!r} is not available here; available: {here}")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The floating-point type of a name.

    Args:
        name: "float32", "bfloat16", "float16" (or fp32, bf16, fp16), or "auto": half precision where the device
            computes in it, that is bfloat16 on CPUs with AMX or AVX512-BF16 and on recent CUDA devices, float16 on
            other GPUs, and float32 elsewhere.
        device: where networks will run.

    Raises:
        ToileError: an unknown name.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise ToileError(f"dtype {name!r} is unknown; allowed: auto, {', '.join(DTYPES)}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    has_bfloat16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def keep_freed_memory() -> None:
    """Tells the C library to keep the memory that networks free, for their next call, instead of returning it at once.

    Without this, glibc hands every large tensor back to the system and each new one is mapped and zeroed page by page,
    which costs CPUs up to a quarter of their time. It holds for the whole process; its peak of memory stays the same.
    Other C libraries are left as they are.
    """
    _tell_malloc(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    _tell_malloc(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def stop_keeping_freed_memory() -> None:
    """Undoes `keep_freed_memory`, for work whose tensors are seldom of the size of those that were freed before them.

    Between weights that are gathered and given back block by block, what is kept cannot be used again: with a U-Net of
    Stable Diffusion in two parts a process then takes 11.8 GB for a pass and its way back, instead of 6.8. Left to
    itself glibc keeps more and more of what was freed, up to blocks of 32 MB, in a heap for each thread: judging 10,000
    pictures then takes 2.6 GB instead of 1.5.
    """
    _tell_malloc(_M_MMAP_THRESHOLD, _USUAL_BYTES)
    _tell_malloc(_M_TRIM_THRESHOLD, _USUAL_BYTES)
    give_back_freed_memory()


def give_back_freed_memory() -> None:
    """Returns to the system what was kept, where one kind of work ends and another needs tensors of other sizes."""
    if _C_LIBRARY is not None and hasattr(_C_LIBRARY, "malloc_trim"):
        _C_LIBRARY.malloc_trim(0)


def _tell_malloc(option: int, value: int) -> None:
    if _C_LIBRARY is not None and hasattr(_C_LIBRARY, "gnu_get_libc_version"):
        _C_LIBRARY.mallopt(option, value)


def page_out(tensor: Tensor) -> None:
    """Asks the system to take what it can of a CPU tensor's memory, as it will hardly be read again.

    Pages of a mapped file stop counting as memory of this process. No content is lost: it is read again when needed.
    """
    if tensor.device.type == "cpu":
        _advise(tensor.data_ptr(), tensor.numel() * tensor.element_size(), _MADV_PAGEOUT)


def drop_pages(tensor: Tensor) -> None:
    """Takes the pages of a mapped tensor out of memory, where the system has a way to; its next use reads them again.

    Only for a tensor that is mapped from a file and that nobody has written to: of any other the content is lost.
    """
    storage = tensor.untyped_storage()
    _advise(storage.data_ptr(), storage.nbytes(), _MADV_DONTNEED)


def _advise(start: int, num_bytes: int, advice: int) -> None:
    """Tells Linux about the whole pages of a range: those at its ends belong to its neighbours too."""
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + num_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if _C_LIBRARY is not None and first < last:
        _C_LIBRARY.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def available_bytes(device: torch.device) -> int | None:
    """Memory that can be had on a device now; None where the system does not tell."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by PyTorch, for what comes
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    known = [amount for amount in (_available_in_system(), _available_in_container()) if amount is not None]
    return min(known, default=None)


def reset_peak_memory(device: torch.device = CPU) -> None:
    """Lets `peak_memory` begin anew, where there is a way to: on CUDA devices, and on CPUs under Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device = CPU) -> int | None:
    """Bytes that this process held at most on a device since `reset_peak_memory`, or since it began; None where it is
    not told.
    """
    if device.type != "cpu":
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def wait_for(device: torch.device) -> None:
    """Until a device has done what it was told to do, so that time can be taken."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if device.type == "mps":
        torch.mps.synchronize()


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _available_in_system() -> int | None:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    names = getattr(os, "sysconf_names", {})  # absent on Windows
    if "SC_AVPHYS_PAGES" in names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _available_in_container() -> int | None:
    """What a Linux control group leaves; file cache counts as used there, so it is added back."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) - used + int(statistics.get("file", 0))
