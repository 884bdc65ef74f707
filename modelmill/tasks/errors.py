"""The one error tree: a message that says what was found, what was expected and what to do → an exit code."""


class MillError(Exception):
    """An error that a user can act on; the command line prints its message without a traceback.

    Only the message is state, so every error of the tree pickles and may cross process borders.
    """

    exit_code = 1


class RecipeError(MillError):
    """A recipe, compute file or command line names something that does not exist or does not fit."""

    exit_code = 2


class InputError(MillError):
    """Data that was given cannot be used at all: a missing file, or nothing left after filtering."""

    exit_code = 3


class ContractError(MillError):
    """Artifacts that do not fit together: tokenizer, vocabulary, sequence length, suites, loss mask."""

    exit_code = 4


class GateError(MillError):
    """A quality gate was not passed and the recipe gives no waiver."""

    exit_code = 5


class ResourceError(MillError):
    """The machine lacks what the stage needs: disk, port, memory, accelerator, a service."""

    exit_code = 6


class WorkerLostError(MillError):
    """Workers or nodes were lost more often than the limit allows; the work itself did not fail."""

    exit_code = 7
