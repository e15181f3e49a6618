"""The one error style: ``error: <sentence>`` on stderr, and what the exit code means."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from lorank.cli.show import say
from lorank.errors import LorankError

DONE, UNEXPECTED, WRONG, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: all went well; a fault of ours or of the user's own code; input or usage that
cannot be used; stopped by Ctrl-C."""

SHOW = "LORANK_TRACEBACK"
"""Environment variable: set it to 1 to see where an error came from."""


def exit_code(call: Callable[[], Any]) -> int:
    """Run a command, and turn whatever it raises into a sentence and an exit code.

    Example:
        >>> exit_code(lambda: None)
        0
    """
    try:
        code = call()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except LorankError as error:
        return _told(str(error), WRONG)
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        return _told(f"{about}{error.strerror or error}", WRONG)
    except Exception as error:
        if hasattr(error, "format_message"):  # usage errors, of whichever typer there is
            return _told(_usage(error), WRONG)
        return _unexpected(error)
    if code == INTERRUPTED:
        say("interrupted")
    return code if isinstance(code, int) else DONE


def _told(sentence: str, code: int) -> int:
    if os.environ.get(SHOW):
        traceback.print_exc()
    say(f"error: {' '.join(sentence.split())}")
    return code


def _usage(error: Any) -> str:
    message = str(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    see = f" (see {context.command_path} --help)" if context else ""
    return message[:1].lower() + message[1:] + see


def _unexpected(error: Exception) -> int:
    hint = "" if os.environ.get(SHOW) else f"; {SHOW}=1 shows where"
    frames = traceback.extract_tb(sys.exc_info()[2])
    place = f" in {os.path.basename(frames[-1].filename)}" if frames else ""
    return _told(f"unexpected {type(error).__name__}{place}: {error}{hint}", UNEXPECTED)
