"""Memory and speed of `python -m catalog sample` as the catalogue grows; one JSON line per size.

    python bench/sample_memory.py [PRODUCTS ...]     by default 1000 10000

Memory is that of the command and its workers: the highest sum of proportional set sizes (PSS: shared pages
are split among those that share them), read from /proc four times a second. Linux only.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (1_000, 10_000)
INTERVAL = 0.25  # seconds


def list_processes(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = [
            int(p) for f in Path(f"/proc/{pid}/task").glob("*/children") for p in f.read_text().split()
        ]
    except OSError:  # it has just ended
        return []
    return [pid, *(descendant for child in children for descendant in list_processes(child))]


def memory(pid: int) -> int:
    """Proportional set size of one process, bytes; 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def measure(products: int) -> dict[str, float]:
    """Draw one catalogue and measure it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "data"
        command = [sys.executable, "-m", "catalog", "sample", "--products", str(products), "--seed", "0"]
        began, peak = time.monotonic(), 0
        process = subprocess.Popen([*command, "--out", str(out)])
        while process.poll() is None:
            peak = max(peak, sum(map(memory, list_processes(process.pid))))
            time.sleep(INTERVAL)
        seconds = time.monotonic() - began
        if process.returncode:
            sys.exit(process.returncode)
        return {
            "products": products,
            "seconds": round(seconds, 1),
            "products_per_second": round(products / seconds, 1),
            "peak_mib": round(peak / 2**20, 1),
            "written_mib": round(sum(f.stat().st_size for f in out.rglob("*.parquet")) / 2**20, 1),
        }


if __name__ == "__main__":
    for size in [int(argument) for argument in sys.argv[1:]] or SIZES:
        print(json.dumps(measure(size)), flush=True)
