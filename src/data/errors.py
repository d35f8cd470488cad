"""The one exception of the data layer."""


class DataError(ValueError):
    """Something about the data that its user must mend: missing, damaged, empty or wrongly named.

    The message stands on its own: what was found, what was expected, how to mend it.
    """
