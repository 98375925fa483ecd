"""Vocabulary of the sample catalogue: product types, colours, patterns, motions, emblems, labels, brands, materials.

Every word or phrase has only one meaning.
"""

from typing import NamedTuple

RGB = tuple[int, int, int]


class ProductType(NamedTuple):
    """One kind of product; `words[0]` is its name, the others are synonyms."""

    department: str
    words: tuple[str, ...]
    materials: tuple[str, ...]
    complement: str  # the name of the type it is used with
    price: float  # euros, of an ordinary one
    features: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.words[0]


class Colour(NamedTuple):
    """One colour: its words, its RGB value, and the RGB value of patterns on it."""

    words: tuple[str, ...]
    rgb: RGB
    accent: RGB


TYPES = (
    ProductType(
        "clothing", ("shirt", "blouse", "button-up"), ("linen", "cotton", "silk", "flannel"), "trousers", 45,
        ("Classic collar and chest pocket", "Cut straight, with a curved hem", "Buttons of real shell"),
    ),
    ProductType(
        "clothing", ("trousers", "pants", "slacks"), ("denim", "cotton", "linen", "corduroy"), "shirt", 60,
        ("Two slanted pockets and belt loops", "Straight leg, regular rise", "Concealed zip fly"),
    ),
    ProductType(
        "clothing", ("dress", "gown", "frock"), ("silk", "cotton", "linen", "viscose"), "heels", 80,
        ("Fitted waist and flared hem", "Slim straps, adjustable", "Fully lined, falls to the knee"),
    ),
    ProductType(
        "accessories", ("beanie", "bobble hat", "knit cap"), ("wool", "cashmere", "acrylic"), "boots", 25,
        ("Turned-up cuff and a fluffy pompom", "Rib knit that keeps its shape", "Warm over the ears"),
    ),
    ProductType(
        "accessories", ("umbrella", "brolly", "parasol"), ("nylon", "polyester", "canvas"), "handbag", 30,
        ("Eight ribs and a curved handle", "Opens at the push of a button", "Stands up to gusts"),
    ),
    ProductType(
        "shoes", ("sneakers", "trainers", "running shoes"), ("canvas", "mesh", "suede", "leather"), "backpack", 75,
        ("Cushioned sole and flat laces", "Padded tongue and heel", "Grips on wet ground"),
    ),
    ProductType(
        "shoes", ("boots", "booties", "ankle boots"), ("leather", "suede", "rubber"), "beanie", 120,
        ("Sturdy heel and a pull tab", "Warm lining, stitched welt", "Deep tread for bad weather"),
    ),
    ProductType(
        "shoes", ("heels", "pumps", "stilettos"), ("leather", "suede", "satin"), "dress", 90,
        ("Pointed toe and a slender heel", "Cushioned insole for long evenings", "Heel of nine centimetres"),
    ),
    ProductType(
        "bags", ("backpack", "rucksack", "daypack"), ("nylon", "canvas", "leather"), "sneakers", 70,
        ("Padded straps and a zipped front pocket", "Sleeve for a laptop", "Bottle pockets on both sides"),
    ),
    ProductType(
        "bags", ("handbag", "purse", "shoulder bag"), ("leather", "suede", "raffia", "canvas"), "umbrella", 110,
        ("Turn-lock clasp and an inner pocket", "Arched handle, firm base", "Room for a day's things"),
    ),
    ProductType(
        "bags", ("suitcase", "luggage", "trolley case"), ("polycarbonate", "aluminium", "nylon"), "backpack", 140,
        ("Telescopic pull bar and four quiet wheels", "Number lock", "Fits most cabin limits"),
    ),
    ProductType(
        "kitchen", ("mug", "coffee cup", "beaker"), ("porcelain", "stoneware", "enamel", "glass"), "teapot", 14,
        ("Large handle, holds the heat", "Safe in the dishwasher", "Stacks neatly"),
    ),
    ProductType(
        "kitchen", ("teapot", "tea kettle", "tea brewer"), ("porcelain", "stoneware", "cast iron"), "mug", 42,
        ("Drip-free spout and a snug lid", "Comes with a fine strainer", "Pours four servings"),
    ),
    ProductType(
        "kitchen", ("plate", "dinner dish", "platter"), ("porcelain", "stoneware", "melamine", "bamboo"), "mug", 16,
        ("Broad rim, glazed by hand", "Safe in the dishwasher", "For every day and for guests"),
    ),
    ProductType(
        "furniture", ("chair", "dining seat", "side chair"), ("oak", "walnut", "beech", "steel"), "pendant lamp", 130,
        ("Padded seat and backrest", "Felt glides spare the floor", "Carries 130 kg"),
    ),
    ProductType(
        "furniture", ("sofa", "couch", "settee"), ("velvet", "leather", "linen", "boucle"), "floor lamp", 850,
        ("Deep seat and two loose cushions", "Turned legs", "Removable covers"),
    ),
    ProductType(
        "furniture", ("dresser", "chest of drawers", "drawer unit"), ("oak", "walnut", "pine"), "table lamp", 320,
        ("Six drawers with round knobs", "Soft-closing runners", "Comes assembled"),
    ),
    ProductType(
        "lighting", ("table lamp", "desk lamp", "bedside light"), ("brass", "ceramic", "rattan", "marble"), "dresser",
        60, ("Conical shade and a pull switch", "For E14 bulbs", "Warm, even light"),
    ),
    ProductType(
        "lighting", ("floor lamp", "standing lamp", "uplighter"), ("brass", "steel", "oak", "bamboo"), "sofa", 150,
        ("Tall stem and a heavy round foot", "Foot switch", "For E27 bulbs"),
    ),
    ProductType(
        "lighting", ("pendant lamp", "hanging light", "ceiling light"), ("brass", "rattan", "paper", "steel"), "chair",
        95, ("Cord of 1.5 m, easily shortened", "Shines downwards without glare", "For E27 bulbs"),
    ),
)  # fmt: skip

WHITEISH, DARKISH = (250, 247, 238), (176, 98, 20)

COLOURS = (
    Colour(("red", "crimson", "scarlet"), (204, 30, 38), WHITEISH),
    Colour(("orange", "tangerine", "amber"), (240, 126, 24), WHITEISH),
    Colour(("yellow", "lemon", "canary"), (248, 212, 44), DARKISH),
    Colour(("green", "emerald", "forest green"), (34, 130, 62), WHITEISH),
    Colour(("turquoise", "teal", "aqua"), (38, 178, 182), WHITEISH),
    Colour(("navy", "dark blue", "midnight blue"), (30, 48, 116), WHITEISH),
    Colour(("purple", "violet", "plum"), (126, 58, 158), WHITEISH),
    Colour(("pink", "rose", "blush"), (242, 132, 176), WHITEISH),
    Colour(("black", "jet", "onyx"), (34, 34, 38), WHITEISH),
    Colour(("white", "ivory", "snow"), (247, 246, 242), (150, 152, 158)),
)

PATTERNS = (
    ("plain", "solid"),
    ("striped", "stripy"),
    ("dotted", "polka dot"),
    ("checked", "gingham"),
    ("floral", "flowery"),
)
PATTERN_SHARES = (0.32, 0.17, 0.17, 0.17, 0.17)

# Motions of products with a clip; no other column depends on them.
MOTIONS = (
    ("swinging", "swaying", "rocking"),
    ("spinning", "twirling", "rotating"),
    ("unfolding", "popping up", "expanding"),
    ("folding away", "collapsing", "shrinking"),
)

# Emblems on the back of products, which only the second picture shows; no other column depends on them.
EMBLEMS = (
    ("star", "five-pointed star"),
    ("heart", "sweetheart"),
    ("crescent", "half moon"),
    ("diamond", "rhombus"),
    ("lightning bolt", "thunderbolt"),
)

# Words that are printed on products, and stand in no text; no other column depends on them.
LABELS = ("Kavora", "Zeltin", "Meruna", "Tovexa", "Brisko", "Dalmur", "Feniqa", "Gorast", "Huvela", "Namito",
          "Pluska", "Rosilu", "Sandik", "Vandro", "Yelmar")  # fmt: skip

BRANDS = ("Nordvik", "Almera", "Tessolo", "Kestrane", "Velmont", "Ossaby", "Brunelle", "Quintara")
BRAND_SHARES = (0.22, 0.18, 0.14, 0.12, 0.1, 0.09, 0.08, 0.07)
BRAND_PRICE = (1.0, 0.9, 1.2, 0.8, 1.6, 1.1, 1.4, 0.7)  # factor of the price

MATERIALS = tuple(sorted({material for kind in TYPES for material in kind.materials}))

LINES = ("Alba", "Birk", "Cala", "Dova", "Elmo", "Fjell", "Gala", "Hilde", "Isla", "Juno", "Kira", "Lumo", "Mira",
         "Nola", "Orla", "Pila", "Runa", "Sol", "Tova", "Una", "Vala", "Wren", "Yara", "Zeno")  # fmt: skip

SIZES = {  # department → measure and its values
    "clothing": ("size", ("XS", "S", "M", "L", "XL")),
    "accessories": ("size", ("small", "medium", "large")),
    "shoes": ("EU size", ("36", "37", "38", "39", "40", "41", "42", "43", "44", "45")),
    "bags": ("volume", ("12 l", "18 l", "24 l", "38 l")),
    "kitchen": ("set of", ("1", "2", "4", "6")),
    "furniture": ("width", ("60 cm", "80 cm", "120 cm", "160 cm")),
    "lighting": ("height", ("30 cm", "45 cm", "90 cm", "150 cm")),
}

CARE = {  # department → sentences
    "clothing": ("Wash at 30 °C.", "Dry clean only.", "Wash inside out, do not tumble dry."),
    "accessories": ("Wipe or hand wash.", "Dry flat, away from heat."),
    "shoes": ("Brush off dirt when dry.", "Treat with a protecting spray before first use."),
    "bags": ("Wipe with a damp cloth.", "Comes with a dust cover."),
    "kitchen": ("Safe for food.", "Packed so that it arrives in one piece."),
    "furniture": (
        "Delivered to your door by two people.",
        "Wipe with a damp cloth.",
        "Assembly takes ten minutes.",
    ),
    "lighting": ("Bulb not included.", "Dust with a soft cloth."),
}
