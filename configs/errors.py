"""The one exception that means "the user can fix this", and the exit codes every command shares."""

from __future__ import annotations

import sys
from collections.abc import Callable

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_USER = 2


class UserError(Exception):
    """A mistake in the input or the set-up.

    Its message names the file or key, what was found, what was expected, and the cure.
    """


def run_command(
    main: Callable[[list[str] | None], int | None], argv: list[str] | None = None
) -> None:
    """Exits with what `main(argv)` returns; a UserError becomes its one message and exit code 2.

    Anything else is a bug of ours and keeps its traceback (exit code 1).
    """
    try:
        code = main(argv)
    except UserError as error:
        # In one piece, so that processes that share a log don't write into each other's lines.
        sys.stderr.write(f"error: {error}\n")
        code = EXIT_USER
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or EXIT_DONE)
