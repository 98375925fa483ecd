"""Groups of products: the variants of one thing."""

import pyarrow as pa
import pyarrow.compute as pc


def name_groups(product_ids: pa.ChunkedArray, group_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Name the group of each product; a product without a group is alone, even if a group has its id as name.

    Args:
        product_ids, group_ids: Columns of the products table, text (P,).
    """
    alone = pc.binary_join_element_wise("alone", product_ids, "\0")  # no group has such a name
    return pc.coalesce(group_ids, alone)
