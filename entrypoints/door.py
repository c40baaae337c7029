"""The way into and out of every command: one clear paragraph for what a user got wrong, an honest exit code."""

import contextlib
import os
import re
import sys
import textwrap
from typing import NoReturn

import click

from cxr import interrupt
from cxr.errors import InputError, TrainingError


def enter(command: click.Command, name: str) -> NoReturn:
    """Run a click command as a program.

    Exit codes: 0 done, 1 what was given cannot be used, 2 usage error, 130 interrupted. A run that
    `mlflow run` has opened ends FAILED (KILLED where interrupted) with the reason, even where our own code
    never got to it. Anything unforeseen keeps its traceback.
    """
    # Before torch is imported: threads that wait by spinning lose more to a busy neighbour (18 against 26
    # images a second beside one busy core of two) than sleeping ones lose on an idle machine (52 against 50).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    opened = os.environ.get("MLFLOW_RUN_ID")
    try:
        interrupt.install(last_words=lambda: _last_words(opened))
        if opened:
            from cxr import launcher  # psutil: only where there is somebody to follow

            launcher.follow()
        code = _call(command, name)
        interrupt.over()
    except (KeyboardInterrupt, click.Abort):
        interrupt.over()
        _kill_runs(opened)
        with contextlib.suppress(BrokenPipeError):
            print("\nInterrupted.", file=sys.stderr)
        code = interrupt.INTERRUPTED
    sys.exit(code)


def _call(command: click.Command, name: str) -> int:
    """The command's exit code. Raises KeyboardInterrupt or click.Abort where it was interrupted."""
    try:
        command.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.Abort:
        raise
    except BrokenPipeError as error:  # `| tee`: Ctrl-C has ended it as well, and click was the first to print
        if not interrupt.requested():
            raise
        raise click.Abort from error
    except click.ClickException as error:
        error.show()
        _fail_opened_run(error.format_message())
        return 2
    except (InputError, TrainingError, FloatingPointError) as error:
        print(
            f"\n{textwrap.fill(f'Error: {error}', 100, break_long_words=False, break_on_hyphens=False)}",
            file=sys.stderr,
        )
        _fail_opened_run(str(error))
        return 1
    except Exception as error:
        _fail_opened_run(f"{type(error).__name__}: {error}")
        if words := _foreseen(error):
            print(f"\nError: {words}", file=sys.stderr)
            return 1
        raise
    return 0


def _foreseen(error: Exception) -> str:
    """What is wrong with the tracking server or database, in words; empty for any other error."""
    module = type(error).__module__
    if module.startswith("mlflow."):  # a server that went away, a right that is missing
        return _of_server(str(error))
    if module.startswith("sqlalchemy.") or (isinstance(error, ImportError) and _in_sqlalchemy(error)):
        from cxr import tracking

        driver = "its driver is not installed: " if isinstance(error, ImportError) else ""
        return f"MLFLOW_TRACKING_URI={tracking.place()}: this database cannot be used ({driver}{error})."
    return ""


def _of_server(words: str) -> str:
    refused = re.search(
        r"endpoint /api/[\d.]+/mlflow/(\S+) failed with error code (401|403).*?body: '(.*)'", words
    )
    if not refused:
        return f"MLflow: {words}"
    from cxr import tracking

    call, code, body = refused.groups()
    who = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    if code == "401":
        found = f"does not accept the password of {who}" if who else "asks who you are"
        return (
            f"{tracking.place()} {found}: expected one of its users in MLFLOW_TRACKING_USERNAME, and the password "
            "in MLFLOW_TRACKING_PASSWORD."
        )
    return (
        f"{tracking.place()} refuses {call} to {who or 'a caller without a name'}: {body}. That call changed "
        "nothing; who runs the server gives the right to edit."
    )


def _in_sqlalchemy(error: ImportError) -> bool:
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_globals.get("__name__", "").startswith("sqlalchemy."):
            return True
        trace = trace.tb_next
    return False


def _fail_opened_run(reason: str) -> None:
    if "MLFLOW_RUN_ID" in os.environ:
        from mlflow.exceptions import MlflowException  # four seconds: not before it is needed

        from cxr.tracking import fail_opened_run

        with contextlib.suppress(MlflowException):  # the reason is on the screen already
            fail_opened_run(reason)


def _kill_runs(opened: str | None) -> None:
    """End as KILLED the runs that are still active, and the one that `mlflow run` opened."""
    if not opened and "cxr.tracking" not in sys.modules:
        return
    import mlflow
    from mlflow.exceptions import MlflowException

    from cxr import launcher, tracking

    if opened:
        launcher.end()  # it would call the run FAILED
    with contextlib.suppress(MlflowException):
        while run := mlflow.active_run():  # interrupted at its start; left alone, MLflow would call it FINISHED
            mlflow.end_run("KILLED")
            tracking.mark_failed(run.info.run_id, "interrupted")
        found = mlflow.get_run(opened) if opened else None
        if found and found.info.status not in ("FINISHED", "KILLED"):  # FAILED, where it was quicker than we
            os.environ["MLFLOW_RUN_ID"] = found.info.run_id
            tracking.fail_opened_run("interrupted", status="KILLED")


def _last_words(opened: str | None) -> None:
    """The same from another thread and with no time to lose; nothing where MLflow is not even imported."""
    if "mlflow" not in sys.modules:
        return
    import mlflow
    from mlflow.tracking import fluent

    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    client = mlflow.MlflowClient()
    # the runs of other threads, the main one's among them: MLflow has no public way to them
    stacks = fluent._active_run_stack.get_all_thread_values().values()
    active = [run.info.run_id for stack in stacks for run in reversed(stack)]
    if opened and opened not in active and client.get_run(opened).info.status != "FINISHED":
        active.append(opened)
    for run_id in active:
        client.set_terminated(run_id, "KILLED")
        client.set_tag(run_id, "failure", "interrupted, and ended before it came to a safe point")
