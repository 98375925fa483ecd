"""Families of published encoders: each is read by its own library, for texts, pictures, or both at once."""

from fusion.encoders.families.base import Family
from fusion.encoders.families.dual_encoders import DualEncoders
from fusion.encoders.families.open_clip_models import OpenClipModels
from fusion.encoders.families.sentence_transformers_models import SentenceTransformers
from fusion.encoders.families.text_encoders import MiniLM, TransformersText
from fusion.encoders.families.timm_models import TimmModels

# The first part of names such as "clip:PATH". One class reads all dual encoders of transformers.
FAMILIES: dict[str, Family] = {
    "hf": TransformersText(),
    "minilm": MiniLM(),
    **dict.fromkeys(("auto", "clip", "siglip"), DualEncoders()),
    "open_clip": OpenClipModels(),
    "st": SentenceTransformers(),
    "timm": TimmModels(),
}


def _list_families(loader: str) -> list[str]:
    return [
        name
        for name, family in FAMILIES.items()
        if getattr(type(family), loader) is not getattr(Family, loader)
    ]


TEXT_FAMILIES = _list_families("load_text")
IMAGE_FAMILIES = _list_families("load_image")
JOINT_FAMILIES = _list_families("load_joint")


def list_packages(*names: str) -> list[str]:
    """The packages that read the encoders with these names, such as "auto:PATH", in alphabetical order."""
    families = (FAMILIES.get(name.partition(":")[0]) for name in names)
    return sorted({package for family in families if family for package in family.packages})
