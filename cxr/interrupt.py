"""Stopping on request: one KeyboardInterrupt at a safe point, however many signals come, and an end in any case.

Python runs signal handlers in the main thread, whole, between two of its bytecodes. So `held` and the handler need
no lock, and no interrupt falls between them: the handler raises where the depth is 0 and otherwise only notes that
a signal came. What decides is the moment when `held` stores the depth 0. A handler that ran before it has left its
note, which `held` reads afterwards; one that runs after it finds 0 and raises itself. `raised` allows one of them.

Python itself can run the handler late (a long call into C) and can lose what it raises (in `__del__`). Against
both stands a thread that the signal wakes directly: it sends the signal again where that is wanted, and counts the
time.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

INTERRUPTED = 130  # exit code, as shells have it for SIGINT
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.05  # seconds until a signal that came at a bad moment is sent again
_LAST_WORDS = 5.0  # seconds


@dataclass
class _State:
    grace: float = 25.0
    last_words: Callable[[], None] | None = None
    depth: int = 0  # of held blocks
    arrived: bool = False
    raised: bool = False
    again: bool = False  # the signal is wanted once more: that was no moment for an exception


_state = _State()
_watcher: threading.Thread | None = None


def install(*, grace: float = 25.0, last_words: Callable[[], None] | None = None) -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, once; signals after it are ignored.

    Call it in the main thread. The exception waits for the end of a `held` block and of an import: what was
    imported by half cannot be imported again to say that the run has ended. A process that is still there `grace`
    seconds after the first signal, whatever its main thread does, calls `last_words` from another thread (5 s at
    most) and ends with exit code 130. A SIGINT that was ignored from the start (`command &` in a script) stays so.
    """
    global _state
    _state = _State(grace, last_words)
    _start_watcher()
    for number in _SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


def ignore() -> None:
    """Ignore SIGINT and SIGTERM: for a worker whose end another process decides, once its work is safe."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def requested() -> bool:
    """Whether an interrupt has arrived, also while it is held."""
    return _state.arrived


@contextmanager
def held() -> Iterator[None]:
    """Let an interrupt wait for the end of the block, and raise it there; blocks may be nested.

    It replaces an exception that leaves the block, which stays its `__context__`: workers that the same signal has
    ended cause such. Outside the main thread, where nothing is raised, it does nothing.
    """
    if threading.get_ident() != threading.main_thread().ident:
        yield
        return
    state = _state
    state.depth += 1
    try:
        yield
    finally:
        state.depth -= 1
        if state.arrived and not state.raised and not state.depth:
            state.raised = True
            raise KeyboardInterrupt


def over() -> None:
    """Raise nothing from here on: the work is done, and an exception would only break the way out."""
    _state.raised = True


# ---------------------------------------------------------------- the main thread


def _handle(_number: int, frame: FrameType | None) -> None:
    if _state.raised:
        return
    _state.arrived = True
    if _state.depth:
        return
    if _importing(frame):
        _state.again = True
        return
    _state.raised = True
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


# ---------------------------------------------------------------- the thread that counts the time


def _start_watcher() -> None:
    """Start, once, a thread that a signal wakes by a byte in a pipe, whatever the main thread is in."""
    global _watcher
    if _watcher and _watcher.is_alive():
        return
    wake, write = os.pipe()
    os.set_blocking(write, False)
    _watcher = threading.Thread(target=_watch, args=(wake,), name="interrupt", daemon=True)
    _watcher.start()
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_in_child)
    before = sys.unraisablehook

    def ask_again(lost: "sys.UnraisableHookArgs") -> None:
        if lost.exc_type is KeyboardInterrupt and _state.raised:  # in `__del__`, in a callback of C
            _state.raised, _state.again = False, True
        else:
            before(lost)

    sys.unraisablehook = ask_again


def _in_child() -> None:
    """A forked child shares the pipe, and its signals are not ours: it gets Python's own handlers back.

    A child that is terminated in the very moment of the fork, before this, would pass for us.
    """
    if signal.getsignal(signal.SIGTERM) is _handle:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _watch(wake: int) -> None:
    while signal.getsignal(os.read(wake, 1)[0]) is not _handle:
        pass  # a signal of somebody else's
    end = time.monotonic() + _state.grace
    while time.monotonic() < end:
        time.sleep(_AGAIN)
        if _state.again:
            _state.again = False
            signal_main()
    _say(f"Interrupted {_state.grace:g} s ago and still busy: ended where it was.")
    if _state.last_words:
        last = threading.Thread(target=_speak, args=(_state.last_words,), daemon=True)
        last.start()
        last.join(_LAST_WORDS)
    os._exit(INTERRUPTED)


def _speak(last_words: Callable[[], None]) -> None:
    try:
        last_words()
    except BaseException as error:  # nobody is left to handle it
        _say(f"Its last words failed: {type(error).__name__}: {error}")


def _say(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())  # the main thread may be in the middle of sys.stderr


def signal_main() -> None:
    """Send this process a SIGTERM, from another thread."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)  # to that thread: only then does a call return that it waits in
