"""The six stages: validate, featurize, train, index, evaluate, register. One file, one function each."""
