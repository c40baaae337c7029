"""Signals at any moment, in processes of their own: none is lost, none lands where it must not."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr.interrupt import INTERRUPTED
from tests.waiting import end

ROOT = Path(__file__).parent.parent

# Steps that are whole or not at all; writes at the end how many were begun, how many ended, how often it was hit.
STEPS = """
import sys, time
from cxr import interrupt
from cxr.interrupt import held

begun = ended = hits = 0

def steps():
    global begun, ended
    while True:
        with held():
            begun += 1
            with held():
                sum(range(50))
            ended += 1

def last_steps(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with held():
            sum(range(50))
"""
RANDOM_MOMENTS = """
while True:
    try:
        interrupt.install(grace=20)
        try:
            print("ready", flush=True)
            steps()
        except KeyboardInterrupt:
            hits += 1
            last_steps(0.01)  # the second signal lands here
        assert interrupt.requested()
        print(begun, ended, hits, flush=True)
    except BaseException as error:
        print("out of place", repr(error), flush=True)
        raise
"""


def test_hundreds_of_interrupts_at_random_moments_are_one_each_between_two_steps(start: Callable) -> None:
    moments = random.Random(7)
    process = start(STEPS + RANDOM_MOMENTS)
    for number in range(300):
        time.sleep(moments.uniform(0, 0.004))
        for sent in ((signal.SIGTERM, signal.SIGINT), (signal.SIGINT,))[number % 2]:
            process.send_signal(sent)
        begun, ended, hits = map(int, process.stdout.readline().split())
        assert begun == ended  # none landed inside a step
        assert hits == number + 1  # none was lost, none counted twice
        assert process.stdout.readline() == "ready\n"


def test_new_processes_interrupted_at_random_moments_all_end(start: Callable) -> None:
    code = """
try:
    interrupt.install(grace=20)
    print("ready", flush=True)
    steps()
finally:
    print(begun, ended)
"""
    moments = random.Random(8)
    for _ in range(40):
        process = start(STEPS + code)
        time.sleep(moments.uniform(0, 0.01))
        process.send_signal(moments.choice((signal.SIGINT, signal.SIGTERM)))
        _, out, err = end(process)
        begun, ended = map(int, out.split())
        assert begun == ended
        assert "KeyboardInterrupt" in err


def test_an_interrupt_waits_for_the_outermost_block_and_replaces_what_left_it(start: Callable) -> None:
    process = start("""
import os, signal
from cxr import interrupt

interrupt.install()
seen = []
try:
    with interrupt.held():
        with interrupt.held():
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append(interrupt.requested())
        seen.append("still inside")
        raise OSError("a worker is gone")
except KeyboardInterrupt as error:
    os.kill(os.getpid(), signal.SIGINT)  # ignored
    seen.append(repr(error.__context__))
print("ready")
print(seen)
""")
    assert end(process) == (0, "[True, 'still inside', \"OSError('a worker is gone')\"]\n", "")


def test_an_import_is_never_broken_off(start: Callable, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(0.5)\nwhole = True")
    code = """
import time
from cxr import interrupt
interrupt.install()
try:
    import slow
    time.sleep(10)
except KeyboardInterrupt:
    print(slow.whole)
"""
    process = start(code)
    process.send_signal(signal.SIGTERM)
    assert end(process, 5) == (0, "True\n", "")


def test_an_interrupt_that_python_can_only_print_comes_again(start: Callable) -> None:
    process = start("""
import time
from cxr import interrupt

class Slow:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(1)

interrupt.install()
try:
    Slow()
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
""")
    process.send_signal(signal.SIGINT)
    assert end(process, 5) == (0, "interrupted\n", "")


@pytest.mark.parametrize("seconds", [0.0, 30.0], ids=["short", "too long"])
def test_a_step_that_does_not_end_is_ended_after_the_grace_and_last_words(
    start: Callable, tmp_path: Path, seconds: float
) -> None:
    process = start(f"""
import os, time
from pathlib import Path
from cxr import interrupt

def last_words():
    Path("last").write_text("words")
    time.sleep({seconds})
    raise OSError("no connection")

interrupt.install(grace=0.5, last_words=last_words)
with interrupt.held():
    print("ready", flush=True)
    time.sleep(60)
""")
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code, _, err = end(process)
    assert code == INTERRUPTED
    assert 0.5 < time.monotonic() - began < (3 if not seconds else 8)
    assert (tmp_path / "last").read_text() == "words"
    assert "Interrupted 0.5 s ago and still busy" in err
    assert ("Its last words failed: OSError: no connection" in err) == (not seconds)


def test_the_time_is_counted_while_the_main_thread_is_in_c(start: Callable) -> None:
    process = start("""
import hashlib, threading
from cxr import interrupt
interrupt.install(grace=0.5)
threading.Timer(0.3, print, ["ready"], {"flush": True}).start()
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # no handler runs before it returns, in many minutes
""")
    process.send_signal(signal.SIGTERM)
    assert end(process, 5)[0] == INTERRUPTED


def test_off_the_main_thread_nothing_is_held_back_there(start: Callable) -> None:
    process = start("""
import threading, time
from cxr import interrupt

def hold():
    with interrupt.held():
        inside.set()
        time.sleep(1)

interrupt.install()
inside = threading.Event()
thread = threading.Thread(target=hold)
thread.start()
inside.wait()
try:
    print("ready", flush=True)
    time.sleep(10)
except KeyboardInterrupt:
    print(thread.is_alive())
""")
    process.send_signal(signal.SIGTERM)
    assert end(process, 5) == (0, "True\n", "")


def test_signals_of_a_forked_child_are_its_own(start: Callable) -> None:
    process = start("""
import multiprocessing, time
from cxr import interrupt

interrupt.install(grace=0.5)
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
child.start()
time.sleep(0.2)
child.terminate()
child.join(5)
print("ready", flush=True)
time.sleep(1)
print(child.exitcode, interrupt.requested())
""")
    assert end(process) == (0, "-15 False\n", "")


def test_a_worker_can_leave_its_end_to_others(start: Callable) -> None:
    process = start("""
import time
from cxr import interrupt
interrupt.ignore()
print("ready", flush=True)
time.sleep(0.5)
print("done")
""")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert end(process) == (0, "done\n", "")


def test_when_the_work_is_over_a_signal_does_not_break_the_way_out(start: Callable) -> None:
    process = start("""
import time
from cxr import interrupt
interrupt.install()
interrupt.over()
print("ready", flush=True)
time.sleep(0.5)
""")
    process.send_signal(signal.SIGTERM)
    assert end(process) == (0, "", "")
