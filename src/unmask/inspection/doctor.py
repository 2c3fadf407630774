"""What this machine has, what it is fast at, and what is missing for which command."""

import importlib.util
import os
import platform
import shutil
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from unmask.checks import find_compiler
from unmask.report import Report
from unmask.storage.folders import cache_folder
from unmask.storage.packages import PACKAGES

SIZE = 512
"""Of the matrices whose product is timed."""


def doctor() -> Report:
    """Check the machine: versions, devices, threads, speed in bfloat16, compiler, disk, packages.

    Returns:
        a row for each check: what was checked, what was found, and what follows from it.
    """
    rows = [*_versions(), *_devices(), *_speed(), *_tools(), *_packages()]
    return Report(tuple({"check": check, "found": found, "means": means} for check, found, means in rows), {})


Rows = list[tuple[str, str, str]]


def _versions() -> Rows:
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    return [("unmask", version("unmask"), ""), ("python", found, ""), ("torch", torch.__version__, "")]


def _devices() -> Rows:
    threads = torch.get_num_threads()
    means = "" if threads >= (os.cpu_count() or 1) else "fewer threads than cores: OMP_NUM_THREADS sets them"
    rows = [("cpu", f"{os.cpu_count()} cores, {threads} threads, {torch.backends.cpu.get_cpu_capability()}", means)]
    if not torch.cuda.is_available():
        return [*rows, ("gpu", "none that torch can use", "everything runs on the CPU")]
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        rows.append((f"cuda:{i}", f"{found.name}, {found.total_memory / 2**30:.0f} GiB", bfloat16))
    return rows


def _speed() -> Rows:
    """Time a product of matrices in float32 and in bfloat16."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(SIZE, SIZE, dtype=dtype, device=device)
        seconds = []
        for _ in range(20):
            start = time.perf_counter()
            float((x @ x)[0, 0])  # waits for the device
            seconds.append(time.perf_counter() - start)
        times[dtype] = min(seconds)
    ratio = times[torch.float32] / times[torch.bfloat16]
    found = f"{2 * SIZE**3 / times[torch.float32] / 1e9:.0f} GFLOP/s in float32, {ratio:.1f} times that in bfloat16"
    return [("products", found, "bfloat16 pays" if ratio > 1.2 else "float32 is as fast as bfloat16, or faster")]


def _tools() -> Rows:
    compiler = find_compiler()
    rows = [("compiler", compiler or "none", "" if compiler else "--compile needs a C++ compiler")]
    for name, folder in (("here", Path.cwd()), ("cache", cache_folder())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**30
        allowed = os.access(there, os.W_OK)
        means = "" if free > 5 and allowed else "little room" if allowed else "no right to write there"
        rows.append((f"disk, {name}", f"{folder}, {free:.0f} GiB free", means))
    return rows


def _packages() -> Rows:
    rows = []
    for module, (use, extra) in PACKAGES.items():
        there = importlib.util.find_spec(module) is not None
        found = _version_of(module) if there else "missing"
        rows.append((module, found, "" if there else f"{use} needs it: pip install 'unmask[{extra}]'"))
    return rows


def _version_of(module: str) -> str:
    names: dict[str, Any] = {"PIL": "pillow", "sklearn": "scikit-learn", "mauve": "mauve-text"}
    try:
        return version(names.get(module, module.replace("_", "-")))
    except PackageNotFoundError:
        return "there"
