"""The one thread that changes anything: mutations queue here, bounded, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from scheduler.errors import Busy, ShuttingDown

T = TypeVar("T")


class Writer:
    """Runs jobs in order on one thread; a caller that stops waiting does not stop the job."""

    def __init__(self, *, waiting_limit: int = 4) -> None:
        self._here = threading.local()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer", initializer=self._mark)
        self._slots = threading.BoundedSemaphore(waiting_limit)
        self._limit = waiting_limit
        self._closed = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue a job; raises Busy when too many wait and ShuttingDown after close()."""
        if self._closed:
            raise ShuttingDown("the daemon is stopping and takes no more changes; retry after its restart")
        if not self._slots.acquire(blocking=False):
            raise Busy(f"{self._limit} changes are waiting already; retry in a second")
        try:
            future = self._executor.submit(job)
        except RuntimeError as error:
            self._slots.release()
            raise ShuttingDown("the daemon is stopping and takes no more changes") from error
        future.add_done_callback(lambda _done: self._slots.release())
        return future

    def run(self, job: Callable[[], T]) -> T:
        """Queue a job and wait for its result or error; a job of the writer's own runs at once."""
        if getattr(self._here, "writing", False):
            return job()
        return self.submit(job).result()

    def _mark(self) -> None:
        self._here.writing = True

    def close(self) -> None:
        """Refuse new jobs and wait for those queued."""
        self._closed = True
        self._executor.shutdown(wait=True)
