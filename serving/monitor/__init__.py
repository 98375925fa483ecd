"""`python -m serving monitor`: a period of the request log against a reference period."""
