"""
How many threads the commands of `mtsbert` and `run_mtl.py` use, and what these do while they wait.

Imports nothing: OpenMP reads its settings once, when torch is loaded, and that must come later.
"""

import math
import os
from pathlib import Path


CGROUPS = Path("/sys/fs/cgroup")
OF_PROCESS = Path("/proc/self/cgroup")


def set_up_threads() -> None:
    """
    Lets idle threads sleep instead of spinning, which slows every other process on the same cores, and allows no more
    threads than a container's CPU quota. Settings of the user's own win. Must be called before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if (quota := cpu_quota()) < num_allowed_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))


def num_allowed_cores() -> float:
    """Cores that this process may run on, infinitely many on macOS and Windows, which do not report it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else math.inf


def cpu_quota(cgroups: Path = CGROUPS, of_process: Path = OF_PROCESS) -> float:
    """
    The cores whose time a container may use, rounded up, as its control groups say (cgroups 2 or 1); infinitely many
    if there is no limit.

    Args:
        cgroups (`Path`, *optional*): Where the groups are.
        of_process (`Path`, *optional*): The file that says which groups this process is in.
    """
    try:
        paths = [line.split(":", 2)[2].strip("/") for line in of_process.read_text().splitlines()]
    except (OSError, IndexError):
        paths = []
    groups = {parent for path in [*paths, ""] for parent in (Path(path), *Path(path).parents)}
    limits = [_limit(cgroups / group) for group in groups] + [_limit(cgroups / "cpu" / group) for group in groups]
    limit = min(limits)
    return limit if limit == math.inf else max(1, math.ceil(limit))


def _limit(group: Path) -> float:
    """The quota of one group, in cores."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf
