"""Errors that a person can act on.

Every boundary of the library raises a `CmaiError`: its message says what was wrong, its `hint` what to do. The command
line prints the two lines and exits with status 2, the web lab shows them in a red box; neither shows a traceback.
"""


class CmaiError(ValueError):
    """Something the caller can mend.

    Args:
        message: what was wrong, naming the offending value, file or row.
        hint: what to do about it (may be empty).
    """

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class DataError(CmaiError):
    """A dataset, file, row or upload that cannot be used."""


class ModelError(CmaiError):
    """A model specification or checkpoint that cannot be used."""


class OptionError(CmaiError):
    """An option outside its accepted values; the message lists them."""


class StoreError(CmaiError):
    """An evaluation store that cannot be read or written; what it holds is kept as it is."""


class EmptyStoreError(StoreError):
    """An evaluation store that has been made, and in which nothing stands yet."""


class Cancelled(Exception):
    """Raised by `CancelToken.check` in code that has no partial result to return."""


class CmaiWarning(UserWarning):
    """Something that was done, but not quite as asked (a file left out, a caption cut): said, and gone on with."""
