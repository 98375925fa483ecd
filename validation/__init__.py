"""Checks of a data set: rules, data drift, near duplicates, and the comparison with the champion's data."""

import os

# By default Great Expectations reports usage to its makers; a run without a network must not wait for that.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
