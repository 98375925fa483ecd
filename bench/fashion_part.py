"""A random part of the Fashion Product Images: `python bench/fashion_part.py ZIP PRODUCTS OUT.zip`."""

import random
import sys
from zipfile import ZipFile

SEED = 0


def main(source: str, products: str, target: str) -> None:
    with ZipFile(source) as whole, ZipFile(target, "w") as part:
        header, *lines = whole.read("styles.csv").decode().splitlines(keepends=True)
        chosen = sorted(random.Random(SEED).sample(range(len(lines)), int(products)))  # noqa: S311
        rows = [lines[number] for number in chosen]
        part.writestr("styles.csv", header + "".join(rows))
        pictures = {f"images/{row.partition(',')[0]}.jpg" for row in rows}
        for name in sorted(pictures.intersection(whole.namelist())):
            part.writestr(name, whole.read(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
