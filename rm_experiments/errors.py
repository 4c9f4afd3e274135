"""The errors a user can cause. Each message is one line: what is wrong, the value, what is allowed, what to type."""


class UserError(Exception):
    """Something the user can mend. Commands print the message as one line on stderr and exit with code 2."""


class ConfigError(UserError):
    """A setting has an unknown name, a value out of range, or contradicts another setting."""


class LockedError(ConfigError):
    """The directory is being written by another process."""


class DataError(UserError):
    """A data file cannot be read, or a row of it is not a preference pair."""


class CheckpointError(UserError):
    """A model or checkpoint directory is missing, damaged, or belongs to something else."""


class TrainingError(RuntimeError):
    """The run failed although its input was valid (a non-finite loss, say). Commands exit with code 1."""


class PushError(RuntimeError):
    """An upload to the Hub failed although the input was valid (no network, say). Commands exit with code 1."""


class OutOfMemoryError(TrainingError):
    """Of one process; the others do not know of it."""


class HangError(TrainingError):
    """The watchdog ended the run. Commands exit with code 124."""


class NonFiniteError(TrainingError):
    """A loss or gradient that is no number; the step was not taken."""

    def __init__(self, message: str, *, step: int, rows: list[str], pairs: list[int]) -> None:
        """`rows`: ids of the pairs whose loss is not finite; `pairs`: positions of all pairs of the step."""
        super().__init__(message)
        self.step, self.rows, self.pairs = step, rows, pairs
