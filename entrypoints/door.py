"""The way into and out of every command: one clear paragraph for what a user got wrong, an honest exit code."""

import contextlib
import os
import signal
import sys
import textwrap
from typing import NoReturn

import click

from cxr.errors import InputError


def enter(command: click.Command, name: str) -> NoReturn:
    """Run a click command as a program.

    Exit codes: 0 done, 1 what was given cannot be used, 2 usage error, 130 interrupted. A run that
    `mlflow run` has opened ends FAILED with the reason, even where our own code never got to it.
    Anything unforeseen keeps its traceback.
    """
    # Before torch is imported: threads that wait by spinning lose more to a busy neighbour (18 against 26
    # images a second beside one busy core of two) than sleeping ones lose on an idle machine (52 against 50).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.ClickException as error:
        error.show()
        _fail_opened_run(error.format_message())
        sys.exit(2)
    except (InputError, FloatingPointError) as error:
        print(
            f"\n{textwrap.fill(f'Error: {error}', 100, break_long_words=False, break_on_hyphens=False)}",
            file=sys.stderr,
        )
        _fail_opened_run(str(error))
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        print("\nInterrupted.", file=sys.stderr)
        _fail_opened_run("interrupted")
        sys.exit(130)
    except Exception as error:
        _fail_opened_run(f"{type(error).__name__}: {error}")
        if type(error).__module__.startswith("mlflow."):  # a server that went away, a right that is missing
            print(f"\nError: MLflow: {error}", file=sys.stderr)
            sys.exit(1)
        raise
    sys.exit(0)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail_opened_run(reason: str) -> None:
    if "MLFLOW_RUN_ID" in os.environ:
        from mlflow.exceptions import MlflowException  # four seconds: not before it is needed

        from cxr.tracking import fail_opened_run

        with contextlib.suppress(MlflowException):  # the reason is on the screen already
            fail_opened_run(reason)
