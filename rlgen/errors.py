"""The one exception type for what a user can mend."""


class StudyError(Exception):
    """Something in the study, its files or its machine that the user can put right.

    The message names the key or file, what was found there, and the remedy; the command line prints it
    without a traceback. Anything that is not the user's to mend is left to crash loudly.
    """
