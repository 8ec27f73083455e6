"""The two ways a command ends badly: the user can mend it (exit status 2) or the run failed (exit status 1)."""


class UsageError(Exception):
    """A wrong path, name, flag or file; the message names it and what to change."""

    exit_status = 2


class RunError(Exception):
    """A run that started and could not be finished; the message names what is missing."""

    exit_status = 1
