"""Encoders of text, pictures and clips, and the weights they start from."""
