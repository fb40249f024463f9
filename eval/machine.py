"""What this machine has: cores, memory, disk, tools, within the limits of a container."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from pathlib import Path


def describe_machine(folder: Path) -> dict[str, str]:
    """What this machine is, in words; the disk is the one that holds `folder`."""
    total, available = memory_gib()
    free = shutil.disk_usage(folder).free / 2**30
    tools = [tool for tool in ("c++", "nvcc", "srun", "pdsh") if shutil.which(tool)]
    return {
        "system": platform.platform(),
        "Python": f"{platform.python_version()}, {sys.executable}",
        "CPU": f"{num_cores()} cores, {platform.machine()}",
        "memory": f"{total:.1f} GiB, {available:.1f} GiB free",
        "disk": f"{free:.0f} GiB free at {folder}",
        "tools": ", ".join(tools) or "no compiler, no cluster launcher",
    }


def num_cores() -> int:
    """Cores that this process may use: affinity, and the quota of a container."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def load_average() -> float:
    """Processes that wanted a core at once, over the last minute."""
    return round(os.getloadavg()[0], 2)


def memory_gib() -> tuple[float, float]:
    """Memory in all and free [GiB], within the limit of a container; 0 where it can't be told."""
    found = dict(re.findall(r"(\w+):\s+(\d+) kB", _read("/proc/meminfo")))
    total, available = (int(found.get(key, 0)) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        used = _read("/sys/fs/cgroup/memory.current").strip()
        available = min(available, max(0, total - int(used or 0)))
    return total / 2**30, available / 2**30


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
