"""The exception of the data layer."""


class DataError(ValueError):
    """The data are missing, damaged, empty or wrongly named, and the user has to mend them.

    The message says what was found, what was expected and how to mend it.
    """
