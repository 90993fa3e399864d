"""Every complaint minibi makes about its input is one of these, says what is wrong and names the fix.

They are ValueErrors, so code that knows nothing of minibi can still catch them.
"""


class MinibiError(ValueError):
    """Base class of all errors raised on purpose."""


class InputError(MinibiError):
    """An argument, a text or an array that cannot be used."""


class FormatError(MinibiError):
    """A file or folder that is damaged, foreign or of an unknown version."""


class ModelError(MinibiError):
    """A model folder that is missing, incomplete or of an unsupported kind."""
