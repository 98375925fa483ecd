"""What a shop's data is: tables of products, queries and judgements, and the pictures in them."""
