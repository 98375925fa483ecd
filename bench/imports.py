"""Speed and memory of `catalog import`, compared with a bare loop that only reads, decodes and writes.

python bench/imports.py 100000 csv      # products, as csv or jsonl, with pictures in a zip; they are repeated
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from catalog import store
from catalog.progress import show_progress
from catalog.schema import main_picture

PICTURES = 500  # distinct pictures
READ = {  # format → what a bare loop reads
    "jsonl": "map(json.loads, lines)",
    "csv": "(dict(zip(names, fields), price=float(fields[-1])) for fields in table_rows)",
}
BARE = """
import csv, io, json, sys, zipfile
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image
from catalog.schema import PRODUCTS

table, pictures, out = sys.argv[1:]
rows = []
writer = pq.ParquetWriter(out, PRODUCTS, compression="zstd")
with zipfile.ZipFile(pictures) as archive, open(table) as lines, writer:
    table_rows = csv.reader(lines) if table.endswith(".csv") else []
    names = next(table_rows) if table.endswith(".csv") else []
    for row in READ:
        content = archive.read(row["images"])
        Image.open(io.BytesIO(content)).convert("RGB")
        rows.append(row | {"images": [{"bytes": content, "path": row["images"]}]})
        if len(rows) == 500:
            writer.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS))
            rows.clear()
    if rows:
        writer.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS))
"""


def write_input(folder: Path, products: int, kind: str) -> tuple[Path, Path]:
    """Write a table of products as CSV or JSON lines, and a zip of their pictures."""
    rows = store.read_table(Path("data"), "products").slice(0, PICTURES).to_pylist()
    rows = [row for row in rows if row["images"]]
    keep = ("title", "description", "category", "brand", "price")
    table, pictures = folder / f"products.{kind}", folder / "pictures.zip"
    with table.open("w", newline="") as lines, zipfile.ZipFile(pictures, "w") as archive:
        for number in show_progress(range(products), desc="writing"):
            row = rows[number % len(rows)]
            name = f"images/{number}.png"
            archive.writestr(name, main_picture(row))
            product = {"product_id": f"p{number}", "images": name} | {key: row[key] for key in keep}
            if kind == "jsonl":
                lines.write(json.dumps(product) + "\n")
                continue
            if not number:
                csv.writer(lines).writerow(product)
            csv.writer(lines).writerow(product.values())
    return table, pictures


def measure(*words: str) -> tuple[float, float]:
    """Seconds and peak memory in MiB of a Python command."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{words[:4]} failed")
    return time.perf_counter() - began, used.ru_maxrss / 1024


def main(products: int, kind: str) -> None:
    """Print the speed and memory of both, and the ratio."""
    with tempfile.TemporaryDirectory() as folder:
        table, pictures = write_input(Path(folder), products, kind)
        import_command = [
            "-m",
            "catalog",
            "import",
            "table",
            str(table),
            "--pictures",
            str(pictures),
            "--out",
            f"{folder}/data",
        ]
        seconds, memory = measure(*import_command)
        bare_seconds, bare_memory = measure(
            "-c", BARE.replace("READ", READ[kind]), str(table), str(pictures), f"{folder}/bare.parquet"
        )
    print(f"import {products / seconds:,.0f} rows/s, {memory:,.0f} MiB")
    print(f"bare loop {products / bare_seconds:,.0f} rows/s, {bare_memory:,.0f} MiB")
    print(f"ratio {bare_seconds / seconds:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
