"""The model: two towers in one space, and how a product's modalities meet."""
