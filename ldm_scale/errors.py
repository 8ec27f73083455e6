"""The two ways a command ends badly: the user can mend it (exit status 2) or the run failed (exit status 1)."""


def one_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class UsageError(Exception):
    """A wrong path, name, flag or file; the message names it and what to change."""

    exit_status = 2


class ExistsError(UsageError):
    """A new file was to be written where there is one; nothing is ever overwritten."""


class RunError(Exception):
    """A run that started and could not be finished; the message names what is missing."""

    exit_status = 1
