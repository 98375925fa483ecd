"""Draws docs/architecture.svg; run `python docs/architecture.py` after a change."""

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT, BOX_WIDTH, STEP = 1174, 430, 164, 194
COLOURS = {"runner": "#eceff1", "stage": "#d9f0ec", "data": "#fff3d6", "registry": "#e3e9fb"}
STAGES = {
    "validate": ("checks the data,", "measures drift", "→ data.html"),
    "featurize": ("words, pictures and", "clips become arrays", "→ features"),
    "train": ("two towers, one fusion", "of three modalities", "→ weights"),
    "index": ("encodes products;", "vectors and BM25", "→ index, marker"),
    "evaluate": ("against BM25 and each", "modality; significance", "→ report.html"),
    "register": ("gate: better than", "the champion?", "→ decision.html"),
}
RUNNERS = ("DVC, on a laptop", "kfp, on this machine", "Kubeflow Pipelines, on a cluster")

LABELS = (
    (400, 237, "drift from the champion's data"),
    (954, 237, "the same queries"),
    (1014, 272, "passes the gate"),
)


class Box(NamedTuple):
    """A labelled rectangle: its corner, size, kind of colour, title and further lines."""

    x: int
    y: int
    width: int
    height: int
    kind: str
    title: str
    lines: tuple[str, ...] = ()


def list_boxes() -> list[Box]:
    """Runners on top, stages below them, then data and registry."""
    boxes = [Box(20 + 384 * n, 20, 366, 34, "runner", title) for n, title in enumerate(RUNNERS)]
    boxes += [
        Box(20 + STEP * n, 96, BOX_WIDTH, 108, "stage", *stage) for n, stage in enumerate(STAGES.items())
    ]
    return [
        *boxes,
        Box(
            20,
            282,
            BOX_WIDTH,
            124,
            "data",
            "Data set",
            ("products, queries,", "judgements: parquet", "versioned by DVC"),
        ),
        Box(990, 282, BOX_WIDTH, 56, "registry", "challenger", ("a person promotes it",)),
        Box(796, 282, BOX_WIDTH, 56, "registry", "champion", ("in production",)),
        Box(602, 282, BOX_WIDTH, 56, "registry", "Search service", ("text, picture, filters",)),
        Box(
            602,
            356,
            552,
            50,
            "registry",
            "MLflow",
            ("every version, with verdict, model card, history; rollback",),
        ),
    ]


def list_arrows() -> list[str]:
    """Paths of SVG; each ends in an arrow head."""
    return [
        *(f"M {20 + STEP * n + BOX_WIDTH} 150 h {STEP - BOX_WIDTH - 5}" for n in range(len(STAGES) - 1)),
        *(f"M {203 + 384 * n} 54 V 75" for n in range(len(RUNNERS))),
        "M 102 282 V 209",
        "M 1072 204 V 277",
        "M 990 310 H 965",
        "M 796 310 H 771",
        "M 878 282 V 243 H 1030 V 209",
        "M 854 282 V 243 H 142 V 209",
    ]


def draw_box(box: Box) -> list[str]:
    """A rectangle and its lines of text, as elements of SVG."""
    middle, first = box.x + box.width / 2, box.y + box.height / 2 - 9 * len(box.lines) + 5
    corner = f'x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="7"'
    elements = [f'<rect {corner} fill="{COLOURS[box.kind]}" stroke="#546e7a"/>']
    for number, line in enumerate((box.title, *box.lines)):
        style = 'font-weight="600"' if number == 0 else 'font-size="13"'
        elements.append(f'<text x="{middle:g}" y="{first + 18 * number:g}" {style}>{escape(line)}</text>')
    return elements


def draw() -> str:
    """The picture as SVG; the same bytes at every call."""
    elements = [f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>']
    elements.append('<rect x="10" y="80" width="1154" height="134" rx="9" fill="none" stroke="#b0bec5"/>')
    for box in list_boxes():
        elements += draw_box(box)
    arrow = 'fill="none" stroke="#37474f" stroke-width="1.6" marker-end="url(#head)"'
    elements += [f'<path d="{path}" {arrow}/>' for path in list_arrows()]
    elements += [f'<text x="{x}" y="{y}" font-size="13">{escape(text)}</text>' for x, y, text in LABELS]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="15" text-anchor="middle" fill="#1c2b33">\n'
        "<title>Six stages from a data set to a champion in MLflow, run by DVC, kfp or Kubeflow</title>\n"
        '<defs><marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M 0 0 L 10 5 L 0 10 z" fill="#37474f"/></marker></defs>\n'
        + "\n".join(elements)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
