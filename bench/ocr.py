"""What reading the text on pictures costs, and what it gives.

    python bench/ocr.py speed
    python bench/ocr.py compare WITHOUT WITH    # two folders of artifacts, evaluated without holdout

`speed` reads pictures of the sample, as they are and enlarged, with and without a line of text drawn on them. `compare`
compares each system of two evaluations by segment; p is of the judge's paired test.
"""

import io
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont
from vitrine_judge.metrics import Scores
from vitrine_judge.significance import paired_test

from catalog import store
from catalog.schema import main_picture
from catalog.threads import limit_threads
from fusion.encoders.ocr import Reader, open_reader

PRIMARY = "ndcg@10"
SYSTEMS = ("bm25", "text-only", "image-only", "fused", "hybrid")
SEGMENTS = ("label", "all others")
COUNT, ROUNDS = 64, 2
SIDES = (96, 320, 640)


def main() -> None:
    mode, *folders = sys.argv[1:] or ["speed"]
    if mode == "compare":
        compare(*map(Path, folders))
    else:
        measure_speed()


def measure_speed() -> None:
    """Print the time of all cores together for a picture: on a quiet machine, n cores take a share of 1/n."""
    threads = limit_threads()
    rows = store.read_table(Path("data"), "products", ["images"]).slice(0, 2 * COUNT).to_pylist()
    files = [picture for row in rows if (picture := main_picture(row))][:COUNT]
    reader = open_reader("rapidocr")
    print(f"CPU milliseconds for a picture, {reader.engine}:\n")
    print("| pixels | no text | one word |\n|---|---|---|")
    for side in SIDES:
        plain = [Image.open(io.BytesIO(file)).convert("RGB").resize((side, side)) for file in files]
        times = [measure(reader, pictures, threads) for pictures in (plain, [*map(write_word, plain)])]
        print(f"| {side} × {side} | {times[0]:.1f} | {times[1]:.1f} |")


def measure(reader: Reader, pictures: list[Image.Image], threads: int) -> float:
    """The least CPU time of some rounds, in milliseconds for a picture."""
    with ThreadPoolExecutor(threads) as pool:
        durations = []
        for _ in range(ROUNDS):
            start = time.process_time()
            list(pool.map(reader, pictures))
            durations.append(time.process_time() - start)
    return 1000 * min(durations) / len(pictures)


def write_word(picture: Image.Image) -> Image.Image:
    copy = picture.copy()
    size = picture.width // 5
    ImageDraw.Draw(copy).text(
        (size // 3, 2 * size),
        "VONDRA",
        "black",
        ImageFont.load_default(size),
        stroke_width=2,
        stroke_fill="white",
    )
    return copy


def compare(without: Path, with_text: Path) -> None:
    """Print a table of systems by segment."""
    print("| segment | queries | system | without | with | difference | p |\n|---|---|---|---|---|---|---|")
    queries = pq.read_table(without / "evaluate" / "queries.parquet", columns=["query_id", "segment"])
    is_label = np.array([segment == SEGMENTS[0] for segment in queries["segment"].to_pylist()])
    for segment, mask in zip(SEGMENTS, (is_label, ~is_label), strict=True):
        for system in SYSTEMS:
            before, after = (
                Scores.from_parquet(folder / "evaluate" / "scores" / f"{system}.parquet").values[PRIMARY][
                    mask
                ]
                for folder in (without, with_text)
            )
            test = paired_test(after, before)
            print(
                f"| {segment} | {mask.sum()} | {system} | {before.mean():.3f} | {after.mean():.3f} "
                f"| {test.difference:+.3f} | {test.p_value:.1g} |"
            )


if __name__ == "__main__":
    main()
