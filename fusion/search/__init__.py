"""Search over a catalogue: index, reranking, late fusion, explanations, BM25."""
