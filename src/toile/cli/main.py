"""The entry point of `toile`: finds the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError

from toile import __version__
from toile.cli.blend import blend
from toile.cli.card import card
from toile.cli.convert import convert
from toile.cli.data import data
from toile.cli.describe import describe
from toile.cli.edit import edit
from toile.cli.evaluate import compare, evaluate
from toile.cli.generate import generate
from toile.cli.grid import grid
from toile.cli.lora import lora
from toile.cli.models import models
from toile.cli.rate import rate
from toile.cli.replay import replay
from toile.cli.runs import runs
from toile.cli.serve import serve
from toile.cli.studio import studio
from toile.cli.sweep import sweep
from toile.cli.train import train
from toile.cli.weigh import weigh
from toile.errors import ToileError, WorkFailedError

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130

_OBJECTS_BETWEEN_COLLECTIONS = 100_000

# Their help is their docstrings, so they are imported here; what is heavy they import when they run.
_COMMANDS = (
    generate,
    weigh,
    edit,
    blend,
    grid,
    replay,
    describe,
    convert,
    models,
    data,
    lora,
    train,
    runs,
    sweep,
    evaluate,
    compare,
    rate,
    card,
    serve,
    studio,
)


def build_app() -> App:
    """All commands under one name."""
    app = App(
        name="toile",
        help="Pictures of clothing and art from words, with proof. Each command explains itself: toile COMMAND --help",
        version=__version__,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for command in _COMMANDS:
        app.command(command)
    return app


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; returns its exit code: 0 done, 1 failed, 2 wrong input, 128 + n stopped by signal n."""
    try:
        return build_app()(list(arguments), exit_on_error=False, print_error=False) or EXIT_DONE
    except UnusedCliTokensError as error:
        rest = " ".join(error.unused_tokens or ())
        return _complain(f"nothing takes {rest!r}; put a text of several words in quotes")
    except CycloptsError as error:
        return _complain(f"{' '.join(str(error).split())} (see toile --help)")
    except WorkFailedError as error:
        return _complain(str(error), EXIT_FAILED)
    except ToileError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        print("toile: stopped; what was finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED


def main() -> None:
    """Runs the command line of this process, and ends it."""
    # Importing torch makes hundreds of thousands of objects, none of them garbage: looking for some among them again
    # and again, and once more at the end, takes longer than making a picture.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    code = run(sys.argv[1:])
    gc.freeze()
    sys.exit(code)


def _complain(message: str, code: int = EXIT_WRONG_INPUT) -> int:
    # Prompts and paths may hold what the terminal cannot show (half surrogates) or should not (line breaks).
    line = " ".join(message.split()).encode("utf-8", errors="replace").decode("utf-8")
    print(f"toile: {line}", file=sys.stderr)
    return code
