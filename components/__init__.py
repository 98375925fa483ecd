"""The five stages: validate, featurize, train, evaluate, register. One file, one function each."""
