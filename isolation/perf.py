"""The system call perf_event_open(2), by ctypes: there is no wrapper in libc."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

#: Number of the call by machine; a machine that is not here cannot be asked.
SYSCALL_NUMBERS = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "ppc64le": 319, "s390x": 331}
_FLAG_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC
_FLAG_CGROUP = 4  # PERF_FLAG_PID_CGROUP


def perf_event_open(
    attributes: bytes, *, thread_id: int = 0, cpu: int = -1, leader: int = -1, cgroup: bool = False
) -> int:
    """Open one counter and give its descriptor, closed on exec; raises OSError with the kernel's error number.

    `attributes` is a struct perf_event_attr whose size field says its own length; thread 0 = the caller, CPU -1 = any.
    With `cgroup`, thread_id is the descriptor of a cgroup's folder, and a CPU must be named.
    """
    number = SYSCALL_NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    descriptor = libc.syscall(
        ctypes.c_long(number),
        ctypes.create_string_buffer(attributes, len(attributes)),
        ctypes.c_int(thread_id),
        ctypes.c_int(cpu),
        ctypes.c_int(leader),
        ctypes.c_ulong(_FLAG_CLOEXEC | (_FLAG_CGROUP if cgroup else 0)),
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(descriptor)
