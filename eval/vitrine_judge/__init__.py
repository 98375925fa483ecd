"""The judge: rankings against graded judgements, with every convention explicit."""
