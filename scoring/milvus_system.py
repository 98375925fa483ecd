"""The served system, searched through Milvus: its ranking should be the same."""

import tempfile
from pathlib import Path

import pyarrow as pa
from vitrine_judge.rankings import Run

from fusion.search.hybrid import Hybrid
from fusion.search.milvus_client import close, connect
from fusion.search.milvus_collection import name_collection, write_collection
from fusion.search.milvus_index import MilvusIndex
from fusion.search.query_terms import QueryTerms
from fusion.search.search_index import SearchIndex
from scoring.grouping import Grouping
from scoring.params import EvaluateParams
from scoring.systems import Candidate


def rank_milvus(
    candidate: Candidate, index: SearchIndex, hybrid: Hybrid, data: Path, params: EvaluateParams
) -> Run:
    """Rank the test queries through Milvus Lite, in a temporary folder.

    Args:
        candidate: The model.
        index: Its products, encoded, with BM25.
        hybrid: How BM25 is merged in service.
        data: The data set.
        params: How many products to rank per query, and which count as one result.

    Raises:
        DataError: the packages of the extra `milvus` are missing.
    """
    lexical = index.require_lexical()
    terms = QueryTerms.take(lexical)
    with tempfile.TemporaryDirectory() as folder:
        uri = str(Path(folder) / "evaluate.db")
        client = connect(uri)
        try:
            collection = name_collection("evaluate", index)
            write_collection(client, index, collection)
            milvus = MilvusIndex(client, collection, terms, hybrid)
            results = milvus.find(candidate.test_embeddings, params.depth, texts=candidate.test_texts)
        finally:
            close(uri)
    rows = [
        {"query_id": query_id, "product_id": result["product_id"], "score": result["score"]}
        for query_id, query_results in zip(candidate.test_queries.ids, results, strict=True)
        for result in query_results
    ]
    grouping = Grouping.read(data, params.collapse)
    return Run.from_table(grouping.collapse(pa.Table.from_pylist(rows), "score"))
