"""The one base of errors that are about what a person gave, not about the code."""


class InputError(ValueError):
    """Something given (flag, file, audio, text) cannot be used; the message tells the remedy.

    Recipes and the command line print it without a traceback.
    """
