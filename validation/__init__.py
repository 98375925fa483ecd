"""Checks of a data set: rules, drift, near duplicates, and the champion's view of it."""

import os

# Great Expectations reports usage to its makers by default; an air-gapped run must not wait for that.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
