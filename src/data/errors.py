"""The exception of the data layer."""


class DataError(ValueError):
    """Something about the data that the user must mend: missing, damaged, empty or wrongly named.

    The message says what was found, what was expected and how to mend it.
    """
