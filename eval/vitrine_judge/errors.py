"""The error that every module of the judge raises."""


class JudgeError(ValueError):
    """Bad input to the judge. The message says what is wrong, where, and what to do."""
