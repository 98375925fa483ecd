"""How many threads a process uses, and how they wait for each other.

PyTorch, OpenMP, faiss, pyarrow and OpenBLAS start a thread for each core of the machine, also in a container that may
use only a few of its cores. The commands and the pipeline's steps call `limit_threads` before anything else; pools of
our own have `cpu_count` threads. The image sets GOMP_SPINCOUNT, too: a step has loaded PyTorch by then.

Only the standard library is imported here: libgomp and OpenBLAS read their variables once, when PyTorch and NumPy load
them. `joblib.cpu_count` imports NumPy, and reads only the quota of the innermost control group.
"""

import math
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"
# How often a waiting thread checks whether it can continue before it sleeps. Where another process is busy, a long loop
# takes the core from the threads that it waits for; without a loop, a training step takes 1.2 times as long. 1000 is
# libgomp's own number if it has more threads than CPUs, else it is 300,000. See bench/threads.py and
# https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html.
SPIN_VARIABLE, SPINS = "GOMP_SPINCOUNT", "1000"
WAITING_VARIABLES = SPIN_VARIABLE, "OMP_WAIT_POLICY"
MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")


def limit_threads() -> int:
    """Limit the threads of all libraries to `cpu_count`, in this process and in the processes that it starts.

    Sets OMP_NUM_THREADS, which pyarrow, MKL and OpenBLAS read, too, and GOMP_SPINCOUNT. Values of the user stay; with
    OMP_WAIT_POLICY, GOMP_SPINCOUNT is not set. Libraries that are loaded already get the limit as well, but keep their
    way of waiting.

    Returns:
        The number of threads.
    """
    count = cpu_count()
    if not _threads_of_user():
        os.environ[VARIABLE] = str(count)
    if not os.environ.keys() & set(WAITING_VARIABLES):
        os.environ[SPIN_VARIABLE] = SPINS
    _limit_loaded_libraries(count)
    return count


def cpu_count() -> int:
    """The threads of a pool: OMP_NUM_THREADS if it is set, else `available_cpus`."""
    return _threads_of_user() or available_cpus()


def share_threads(processes: int) -> dict[str, str]:
    """The environment of processes that work at the same time and share this process's CPUs.

    Args:
        processes: Number of processes.

    Returns:
        The whole environment. OMP_NUM_THREADS is the share of each; it stays if the user has set another number than
        `available_cpus`.
    """
    count = available_cpus()
    if _threads_of_user() not in {0, count}:
        return dict(os.environ)
    return {**os.environ, VARIABLE: str(max(1, count // processes))}


def available_cpus() -> int:
    """The CPUs that this process may use, at least 1.

    These are the CPUs of its affinity, or fewer where a control group has a smaller quota (version 1 or 2, of the
    process or of a parent; a fraction is rounded up). If neither limits the process, it is the number of physical
    cores, as in PyTorch: two threads of a core share its arithmetic units.
    """
    cpus = os.sched_getaffinity(0)
    if quotas := list(_read_quotas()):
        return max(1, min(len(cpus), math.ceil(min(quotas))))
    return len(cpus) if len(cpus) < (os.cpu_count() or 1) else _count_cores(cpus)


def _threads_of_user() -> int:
    """The number in OMP_NUM_THREADS; 0 if it holds none. Of a list for nested regions it is the first."""
    first = os.environ.get(VARIABLE, "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def _read_quotas() -> Iterator[float]:
    """The CPU quotas of this process's control groups and of their parents, in CPUs.

    A line of /proc/self/cgroup is ID:CONTROLLERS:GROUP; version 2 names no controllers. In a container the folder of
    the group can be missing, because the container's own group is mounted as the root.
    """
    lines = MEMBERSHIP.read_text().splitlines() if MEMBERSHIP.exists() else []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / "cpu" if controllers else CGROUPS
        innermost = root / group.strip("/")
        for folder in (innermost, *innermost.parents):
            if folder.is_relative_to(root):
                yield from _read_quota(folder)


def _read_quota(folder: Path) -> Iterator[float]:
    """The quota of a control group in CPUs, if it has one: microseconds of CPU time in a period, by its length."""
    if (limit := folder / "cpu.max").exists():  # version 2
        quota, period = limit.read_text().split()
    elif (limit := folder / "cpu.cfs_quota_us").exists():  # version 1
        quota, period = limit.read_text().strip(), (folder / "cpu.cfs_period_us").read_text()
    else:
        return
    if quota not in {"max", "-1"}:
        yield int(quota) / int(period)


def _count_cores(cpus: Iterable[int]) -> int:
    """The physical cores of CPUs; a CPU whose core is not known counts as one."""
    files = {cpu: TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in cpus}
    return len({file.read_text() if file.exists() else cpu for cpu, file in files.items()})


def _limit_loaded_libraries(count: int) -> None:
    """Limit libraries that were imported before their variables were set; a lower number stays."""
    pyarrow, torch = sys.modules.get("pyarrow"), sys.modules.get("torch")
    if pyarrow and pyarrow.cpu_count() > count:
        pyarrow.set_cpu_count(count)
    if torch and torch.get_num_threads() > count:
        torch.set_num_threads(count)  # for every thread that calls PyTorch; OpenMP's number is for this one
    if "numpy" in sys.modules:
        from threadpoolctl import ThreadpoolController

        for library in ThreadpoolController().lib_controllers:
            if library.num_threads > count:
                library.set_num_threads(count)
