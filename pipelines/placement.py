"""Where the steps run: the images that hold Vitrine's code."""

import os
from importlib.metadata import version

# A tag per commit, never `latest`: KFP's cache key holds this string, not what the image contains.
_TAG = os.environ.get("VITRINE_COMMIT") or version("vitrine")
_NAME = os.environ.get("VITRINE_IMAGE_NAME", "vitrine")

CPU = f"{_NAME}:{_TAG}-cpu"
CUDA = f"{_NAME}:{_TAG}-cuda"
