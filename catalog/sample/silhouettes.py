"""Drawings of the product types, registered by the type's name."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from catalog.sample.canvas import Canvas, arc, blend, box, mirror, smooth

WOOD, METAL, GOLD, DARK, LIGHT = (142, 98, 58), (152, 155, 162), (204, 164, 72), (58, 56, 60), (238, 236, 230)
GLOW = (255, 240, 190)

Silhouette = Callable[[Canvas], None]
SILHOUETTES: dict[str, Silhouette] = {}


def silhouette(name: str) -> Callable[[Silhouette], Silhouette]:
    """Register the drawing of a type."""

    def register(drawing: Silhouette) -> Silhouette:
        SILHOUETTES[name] = drawing
        return drawing

    return register


@silhouette("shirt")
def shirt(c: Canvas) -> None:
    cuff = c.vary(0.0, 0.62)
    sleeve = [(0.98 - 0.12 * cuff, -0.1 + cuff), (0.72 - 0.08 * cuff, 0.0 + cuff)]
    half = [(0.2, -0.84), (0.58, -0.7), *sleeve, (0.52, -0.3), (0.54, 0.82), (0.25, 0.9), (0, 0.86)]
    c.fill(mirror(half))
    c.line([(0.52, -0.3), (0.5, -0.5)])
    c.line([(-0.52, -0.3), (-0.5, -0.5)])
    c.line([(0.07, -0.6), (0.07, 0.86)], 0.018)
    c.line([(-0.07, -0.6), (-0.07, 0.86)], 0.018)
    for side in (-1, 1):
        c.fill([(0, -0.6), (side * 0.2, -0.88), (side * 0.34, -0.74), (side * 0.17, -0.44)], tone=0.25)
    c.fill(box(0.17, -0.3, 0.42, 0.0), tone=0.12)
    for y in np.linspace(-0.42, 0.74, 5):
        c.dot(0, float(y), 0.042, LIGHT)


@silhouette("trousers")
def trousers(c: Canvas) -> None:
    flare = c.vary(-0.06, 0.1)
    half = [(0.4, -0.92), (0.5, -0.4), (0.5 + flare, 0.93), (0.14, 0.93), (0.03, -0.2)]
    c.fill(mirror(half))
    c.fill(box(-0.41, -0.93, 0.41, -0.78), tone=-0.2)
    c.line([(0, -0.78), (0, -0.2)])
    c.line([(0.09, -0.76), (0.09, -0.46), (0.0, -0.36)], 0.016)
    for side in (-1, 1):
        c.line([(side * 0.26, -0.76), (side * 0.46, -0.5)], 0.026)
        c.line([(side * 0.3, -0.3), (side * (0.32 + flare / 2), 0.9)], 0.014)
        c.line([(side * 0.15, 0.84), (side * (0.5 + flare), 0.84)], 0.016)
        c.paint(box(side * 0.24 - 0.03, -0.96, side * 0.24 + 0.03, -0.76), c.ink, edge=False)
    c.dot(0, -0.855, 0.045, GOLD)


@silhouette("dress")
def dress(c: Canvas) -> None:
    hem = c.vary(0.6, 0.86)
    for side in (-1, 1):
        c.line([(side * 0.2, -0.6), (side * 0.17, -0.95)], 0.06)
    skirt = [(0.2, -0.1), (0.34, 0.25), (hem, 0.84), (hem * 0.6, 0.92), (hem * 0.25, 0.86), (0, 0.92)]
    c.fill(mirror(skirt))
    for x in (-0.5, -0.18, 0.18, 0.5):
        c.line([(x * 0.4, 0.02), (x * hem, 0.86)], 0.016)
    c.fill(mirror([(0, -0.52), (0.13, -0.62), (0.27, -0.68), (0.3, -0.45), (0.21, -0.08)]))
    c.fill(box(-0.225, -0.14, 0.225, 0.0), tone=-0.35)


@silhouette("beanie")
def beanie(c: Canvas) -> None:
    height = c.vary(0.5, 0.68)
    c.fill(arc(0, 0.35, 0.68, height + 0.4, 180, 360))
    cuff = box(-0.76, 0.22, 0.76, 0.66, 0.12)
    c.fill(cuff, tone=-0.22)
    for x in np.linspace(-0.64, 0.64, 11):
        c.line([(float(x), 0.27), (float(x), 0.62)], 0.024)
    top = -0.05 - height
    spikes = np.where(np.arange(40) % 2, 0.27, 0.21)
    angles = np.linspace(0, 2 * np.pi, 40)
    c.paint(list(zip(spikes * np.cos(angles), top - 0.06 + spikes * np.sin(angles), strict=True)), LIGHT)


@silhouette("umbrella")
def umbrella(c: Canvas) -> None:
    c.line([(0, -0.95), (0, 0.66)], 0.05, DARK)
    hook = c.vary(0.12, 0.18)
    c.line([(0, 0.5), *arc(hook, 0.72, hook, 0.19, 180, 0)], 0.1, WOOD)
    edge = [point for x in (0.69, 0.23, -0.23, -0.69) for point in arc(x, 0.12, 0.23, 0.12, 0, -180)]
    c.fill([*arc(0, 0.12, 0.92, 0.92, 180, 360), *edge])
    for x in (-0.46, 0.0, 0.46):
        c.line([(0, -0.8), (x * 0.7, -0.4), (x, 0.12)], 0.02)
    c.line([(0, -0.8), (0, -0.96)], 0.06, DARK)


@silhouette("sneakers")
def sneakers(c: Canvas) -> None:
    upper = [(-0.86, 0.3), (-0.9, -0.42), (-0.62, -0.48), (-0.5, -0.24), (-0.2, -0.44), (0.02, -0.4), (0.34, 0.02),
             (0.8, 0.08), (0.98, 0.3), (0.95, 0.46), (-0.86, 0.46)]  # fmt: skip
    c.fill(smooth(upper, 2))
    c.paint(smooth([(0.56, 0.42), (0.5, 0.08), (0.8, 0.06), (1.0, 0.26), (0.98, 0.42)], 2), LIGHT)
    c.fill(smooth([(-0.9, 0.4), (-0.92, -0.3), (-0.66, -0.3), (-0.6, 0.4)], 2), tone=-0.25)
    sole = box(-0.95, 0.36, 1.0, 0.6, 0.1)
    c.paint(sole, LIGHT)
    c.line([(-0.9, 0.5), (0.96, 0.5)], 0.025, METAL)
    for step in range(4):
        x, y = -0.2 + 0.15 * step, -0.3 + 0.125 * step
        c.line([(x - 0.1, y + 0.14), (x + 0.1, y - 0.06)], 0.06, LIGHT)


@silhouette("boots")
def boots(c: Canvas) -> None:
    top = c.vary(-0.92, -0.74)
    boot = [(-0.5, top), (-0.5, top), (0.16, top), (0.16, top), (0.14, 0.1), (0.34, 0.26), (0.8, 0.32), (0.88, 0.62),
            (0.88, 0.7), (-0.52, 0.7), (-0.58, 0.66), (-0.46, 0.0)]  # fmt: skip
    c.fill(smooth(boot, 2))
    c.fill(box(-0.53, top - 0.04, 0.19, top + 0.16, 0.03), tone=-0.25)
    c.paint(box(-0.58, 0.66, 0.9, 0.76), DARK)
    c.paint([(-0.58, 0.74), (-0.14, 0.74), (-0.18, 0.95), (-0.56, 0.95)], DARK)
    c.line([(0.12, 0.02), (-0.08, 0.16), (-0.48, 0.2)], 0.02)
    for y in np.linspace(top + 0.28, 0.02, 4):
        c.line([(-0.06, float(y) + 0.03), (0.14, float(y) - 0.03)], 0.05, LIGHT)
    c.line([(-0.5, top), (-0.56, top - 0.1), (-0.44, top - 0.1), (-0.42, top)], 0.03)


@silhouette("heels")
def heels(c: Canvas) -> None:
    tip = c.vary(-0.84, -0.7)
    c.paint([(-0.88, -0.3), (-0.6, -0.05), (tip + 0.04, 0.76), (tip - 0.04, 0.76)], DARK)
    shoe = [(-0.88, -0.66), (-0.76, -0.62), (-0.5, -0.2), (-0.1, 0.06), (0.24, 0.1), (0.5, 0.18), (1.04, 0.64),
            (0.98, 0.74), (0.16, 0.74), (-0.24, 0.42), (-0.6, 0.02), (-0.9, -0.1)]  # fmt: skip
    c.fill(smooth(shoe, 2))
    c.line([(-0.2, 0.46), (0.12, 0.74), (0.96, 0.75)], 0.05, DARK)
    c.line([(-0.8, -0.56), (-0.48, -0.1), (-0.08, 0.16), (0.26, 0.2)], 0.03)


@silhouette("backpack")
def backpack(c: Canvas) -> None:
    wide = c.vary(0.54, 0.64)
    for side in (-1, 1):
        c.line(
            smooth([(side * 0.3, -0.5), (side * 0.86, -0.3), (side * 0.86, 0.5), (side * 0.4, 0.7)], 2)[:12],
            0.1,
        )
        c.fill(box(side * (wide + 0.04) - 0.13, 0.22, side * (wide + 0.04) + 0.13, 0.74, 0.1), tone=-0.25)
    c.line(arc(0, -0.78, 0.16, 0.16, 180, 360), 0.07)
    c.fill(
        smooth(
            [
                (-wide, 0.86),
                (-wide, 0.86),
                (-wide, -0.5),
                (-0.34, -0.86),
                (0.34, -0.86),
                (wide, -0.5),
                (wide, 0.86),
                (wide, 0.86),
            ]
        )
    )
    c.line(arc(0, -0.24, wide - 0.12, 0.42, 190, 350), 0.03)
    c.fill(box(-wide + 0.12, 0.16, wide - 0.12, 0.74, 0.1), tone=0.1)
    c.line([(-wide + 0.16, 0.32), (wide - 0.16, 0.32)], 0.045, METAL)
    c.paint(box(0.12, 0.3, 0.18, 0.48), METAL)
    c.paint(box(-0.14, -0.3, 0.14, -0.16, 0.03), LIGHT)


@silhouette("handbag")
def handbag(c: Canvas) -> None:
    rise = c.vary(0.62, 0.86)
    c.line(arc(0, -0.12, 0.42, rise, 180, 360), 0.085)
    c.fill(
        smooth(
            [
                (-0.62, -0.2),
                (-0.62, -0.2),
                (0.62, -0.2),
                (0.62, -0.2),
                (0.86, 0.74),
                (0.86, 0.78),
                (-0.86, 0.78),
                (-0.86, 0.74),
            ],
            2,
        )
    )
    c.fill(
        smooth(
            [
                (-0.64, -0.2),
                (-0.64, -0.2),
                (0.64, -0.2),
                (0.64, -0.2),
                (0.52, 0.28),
                (0, 0.42),
                (-0.52, 0.28),
            ],
            2,
        ),
        tone=-0.18,
    )
    for side in (-1, 1):
        c.dot(side * 0.42, -0.08, 0.06, GOLD)
    c.paint(box(-0.11, 0.22, 0.11, 0.44, 0.04), GOLD)


@silhouette("suitcase")
def suitcase(c: Canvas) -> None:
    wide = c.vary(0.44, 0.56)
    c.line([(-0.24, -0.5), (-0.24, -0.94), (0.24, -0.94), (0.24, -0.5)], 0.06, METAL)
    c.paint(box(-0.28, -1.0, 0.28, -0.88, 0.04), DARK)
    for side in (-1, 1):
        c.dot(side * (wide - 0.12), 0.88, 0.1, DARK)
    c.fill(box(-wide, -0.56, wide, 0.82, 0.12))
    for x in (-0.55, -0.18, 0.18, 0.55):
        c.line([(x * wide, -0.44), (x * wide, 0.7)], 0.04)
    c.line(arc(0, -0.56, 0.16, 0.1, 180, 360), 0.06, DARK)
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        c.paint(
            box(
                x * (wide - 0.07) - 0.08,
                0.13 + y * 0.62 - 0.08,
                x * (wide - 0.07) + 0.08,
                0.13 + y * 0.62 + 0.08,
                0.05,
            ),
            METAL,
        )


@silhouette("mug")
def mug(c: Canvas) -> None:
    wide, taper = c.vary(0.5, 0.6), c.vary(0.0, 0.08)
    c.line(arc(wide - 0.2, 0.05, 0.46, 0.36, -90, 90), 0.15)
    c.line(arc(wide - 0.2, 0.05, 0.46, 0.36, -90, 90), 0.1, c.colour)
    left = -0.2
    body = [(left - wide, -0.6), *arc(left, 0.68, wide - taper, 0.16, 180, 0), (left + wide, -0.6)]
    c.fill(body)
    c.fill(arc(left, -0.6, wide, 0.16), tone=0.3)
    c.paint(arc(left, -0.57, wide - 0.09, 0.1), (92, 56, 32))


@silhouette("teapot")
def teapot(c: Canvas) -> None:
    c.line(arc(-0.5, 0.08, 0.42, 0.38, 100, 285), 0.14)
    c.line(arc(-0.5, 0.08, 0.42, 0.38, 100, 285), 0.09, c.colour)
    c.fill(
        smooth(
            [
                (0.36, 0.42),
                (0.36, 0.0),
                (0.66, -0.08),
                (0.84, -0.52),
                (1.02, -0.44),
                (0.86, 0.14),
                (0.6, 0.42),
            ],
            2,
        ),
        tone=-0.08,
    )
    c.fill(arc(0, 0.18, 0.62, 0.56))
    c.fill(smooth([(-0.3, 0.66), (0.3, 0.66), (0.36, 0.8), (-0.36, 0.8)], 1), tone=-0.25)
    c.fill(arc(0, -0.3, 0.38, 0.24, 180, 360), tone=0.15)
    c.line([(-0.4, -0.3), (0.4, -0.3)], 0.05)
    c.dot(0, -0.6, 0.11, c.colour)


@silhouette("plate")
def plate(c: Canvas) -> None:
    c.fill(arc(0, 0, 0.66, 0.66))
    well = c.vary(0.36, 0.44)
    c.fill(arc(0, 0, well + 0.03, well + 0.03), tone=-0.16)
    c.fill(arc(0.012, 0.012, well, well), tone=0.16)
    for x in (-0.97, -0.89, -0.81):
        c.line([(x, -0.62), (x, -0.3)], 0.035, METAL)
    c.line([(-0.97, -0.3), (-0.81, -0.3)], 0.06, METAL)
    c.line([(-0.89, -0.3), (-0.89, 0.66)], 0.06, METAL)
    c.paint(smooth([(0.82, -0.66), (0.98, -0.4), (0.95, 0.08), (0.82, 0.08)], 2), METAL)
    c.line([(0.88, 0.05), (0.88, 0.66)], 0.08, METAL)


@silhouette("chair")
def chair(c: Canvas) -> None:
    back = c.vary(-0.94, -0.76)
    for foot, top in (((-0.44, 0.74), (-0.36, 0.1)), ((0.62, 0.74), (0.42, 0.1))):
        c.line([top, foot], 0.075, blend(WOOD, (0, 0, 0), 0.3))
    c.line([(-0.46, back), (-0.5, 0.2), (-0.58, 0.95)], 0.09, WOOD)
    c.line([(0.34, back), (0.36, 0.1)], 0.09, WOOD)
    c.fill(box(-0.5, back, 0.4, back + 0.62, 0.1))
    c.fill(
        smooth(
            [
                (-0.56, 0.02),
                (-0.56, 0.02),
                (0.38, -0.02),
                (0.38, -0.02),
                (0.68, 0.24),
                (0.68, 0.34),
                (-0.5, 0.36),
                (-0.56, 0.3),
            ],
            2,
        ),
        tone=0.1,
    )
    c.line([(0.58, 0.3), (0.66, 0.95)], 0.09, WOOD)
    c.line([(-0.5, 0.32), (-0.56, 0.95)], 0.09, WOOD)


@silhouette("sofa")
def sofa(c: Canvas) -> None:
    back = c.vary(-0.56, -0.4)
    for x in (-0.78, 0.78):
        c.paint([(x - 0.07, 0.54), (x + 0.07, 0.54), (x + 0.03, 0.76), (x - 0.03, 0.76)], WOOD)
    c.fill(box(-0.84, back, 0.84, 0.3, 0.12))
    c.line([(0, back), (0, 0.2)], 0.03)
    c.fill(box(-0.8, 0.3, 0.8, 0.58, 0.04), tone=-0.2)
    for side in (-1, 1):
        c.fill(box(side * 0.36 - 0.37, 0.08, side * 0.36 + 0.37, 0.36, 0.08), tone=0.14)
    for side in (-1, 1):
        c.fill(box(side * 0.86 - 0.14, -0.12, side * 0.86 + 0.14, 0.6, 0.12), tone=-0.1)


@silhouette("dresser")
def dresser(c: Canvas) -> None:
    tall = c.vary(-0.72, -0.5)
    for x in (-0.66, 0.66):
        c.paint([(x - 0.08, 0.66), (x + 0.08, 0.66), (x + 0.04, 0.9), (x - 0.04, 0.9)], WOOD)
    c.fill(box(-0.8, tall, 0.8, 0.72))
    c.fill(box(-0.86, tall - 0.1, 0.86, tall + 0.02), tone=-0.2)
    rows = np.linspace(tall + 0.08, 0.66, 4)
    for top, bottom in pairwise(rows):
        for side in (-1, 1):
            c.fill(box(side * 0.39 - 0.34, float(top), side * 0.39 + 0.34, float(bottom) - 0.06), tone=0.12)
            c.dot(side * 0.39, float(top + bottom) / 2 - 0.03, 0.06, GOLD)


@silhouette("table lamp")
def table_lamp(c: Canvas) -> None:
    belly = c.vary(0.24, 0.34)
    c.line([(0, -0.1), (0, 0.4)], 0.07, GOLD)
    c.paint(
        smooth([(-0.08, 0.12), (0.08, 0.12), (belly, 0.5), (0.12, 0.82), (-0.12, 0.82), (-belly, 0.5)]), GOLD
    )
    c.paint(box(-0.32, 0.78, 0.32, 0.9, 0.04), DARK)
    c.line(
        [(0.3, 0.84), *arc(0.5, 0.84, 0.16, 0.08, 180, 0), *arc(0.82, 0.84, 0.16, 0.08, 180, 360)], 0.03, DARK
    )
    c.fill([(-0.36, -0.84), (0.36, -0.84), (0.7, 0.08), (-0.7, 0.08)])
    c.line([(0.2, 0.1), (0.2, 0.34)], 0.02, DARK)
    c.dot(0.2, 0.36, 0.04, GOLD)


@silhouette("floor lamp")
def floor_lamp(c: Canvas) -> None:
    c.line([(0, -0.4), (0, 0.9)], 0.055, DARK)
    c.paint(arc(0, 0.9, 0.34, 0.075), DARK)
    rim = c.vary(0.42, 0.52)
    c.fill([(-rim * 0.55, -0.96), (rim * 0.55, -0.96), (rim, -0.36), (-rim, -0.36)])
    c.line([(rim * 0.4, -0.34), (rim * 0.4, -0.12)], 0.02, DARK)
    c.dot(rim * 0.4, -0.1, 0.04, GOLD)


@silhouette("pendant lamp")
def pendant_lamp(c: Canvas) -> None:
    c.line([(0, -1.6), (0, -0.3)], 0.045, DARK)
    c.paint(box(-0.1, -0.42, 0.1, -0.2, 0.03), GOLD)
    c.paint(arc(0, 0.5, 0.2, 0.2), GLOW)
    high = c.vary(0.62, 0.78)
    c.fill(arc(0, 0.5, 0.82, high, 180, 360))
    c.paint([*arc(0, 0.5, 0.82, 0.08), (0.82, 0.5)], GLOW)
    c.paint(arc(0, 0.54, 0.17, 0.17, 0, 180), GLOW)
