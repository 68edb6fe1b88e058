"""Real processes with many threads, for tests that place them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PROGRAM = """
import os, sys, threading, time
import signal
threads, pinned, children, churn = map(int, sys.argv[1:5])
ready = threading.Semaphore(0)
def idle(number):
    if number < pinned:
        os.sched_setaffinity(threading.get_native_id(), {number % 2})
    ready.release()
    time.sleep(600)
for number in range(threads - 1):
    threading.Thread(target=idle, args=(number,), daemon=True).start()
for _ in range(threads - 1):
    ready.acquire()
reading, writing = os.pipe()
for _ in range(children):
    if os.fork() == 0:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        os.write(writing, b"x")
        time.sleep(600)
    os.read(reading, 1)
def grow(*_):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    if os.fork() == 0:
        time.sleep(600)
    print("grown", flush=True)
signal.signal(signal.SIGUSR1, grow)
print("up", flush=True)
while churn:
    threading.Thread(target=time.sleep, args=(0.02,)).start()
    time.sleep(0.0005)
while True:
    time.sleep(600)
"""


@contextmanager
def real_process(*, threads: int = 1, pinned: int = 0, children: int = 0, churn: bool = False) -> Iterator[int]:
    """Run a process; its first `pinned` threads pin themselves to CPU 0, 1, 0, ...; churn = short threads all along."""
    arguments = map(str, (threads, pinned, children, int(churn)))
    command = [sys.executable, "-S", "-c", _PROGRAM, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"up\n"
            yield process.pid
        finally:
            end_group(process.pid)
            process.wait(10)


def end_group(leader: int) -> None:
    """End a process and the children that it left in its process group, which is ours alone."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
