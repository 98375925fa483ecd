"""A shop's data: tables of products, queries and judgements, with their pictures and clips."""
