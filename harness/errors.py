"""The one exception that is meant for the user's eyes."""


class HarnessError(Exception):
    """Something the user can mend; its message names the thing, what was found, what to do."""
