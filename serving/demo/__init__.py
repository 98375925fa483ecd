"""The demo page: champion and challenger side by side (`make try`)."""
