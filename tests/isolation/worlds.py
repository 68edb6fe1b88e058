"""The kernels that a contract holds for: the fake and the real one, as cgroup v1 and v2."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from isolation.cgroup import find_hierarchy
from isolation.kernelfs import HOST_AFFINITY, HOST_FILES, AffinityCalls, KernelFiles
from tests.fakes.children import real_process
from tests.fakes.kernel import FakeKernel


class World(Protocol):
    files: KernelFiles
    affinity: AffinityCalls
    version: int  # of cgroup
    remembers_masks: bool  # a thread's own mask outlives a change of cpuset: since Linux 6.2
    mount: str
    top: str  # a folder of ours below the mount, with CPUs 0-1 and node 0

    def spawn(self, threads: int) -> int: ...

    def zombie(self) -> int: ...


class FakeWorld:
    def __init__(self, *, version: int, remembers_masks: bool = True) -> None:
        self.kernel = FakeKernel(cpus="0-1", mems="0", version=version, remembers_masks=remembers_masks)
        self.files: KernelFiles = self.kernel
        self.affinity: AffinityCalls = self.kernel
        self.version = version
        self.remembers_masks = remembers_masks
        self.mount = self.kernel.mount
        self.top = f"{self.mount}/contract"

    def spawn(self, threads: int) -> int:
        return self.kernel.spawn(threads=threads)

    def zombie(self) -> int:
        pid = self.kernel.spawn()
        self.kernel.end(pid, zombie=True)
        return pid


class RealWorld:
    def __init__(self, mount: str, stack: ExitStack, *, version: int) -> None:
        self.files: KernelFiles = HOST_FILES
        self.affinity: AffinityCalls = HOST_AFFINITY
        self.version = version
        self.remembers_masks = tuple(map(int, platform.release().split(".")[:2])) >= (6, 2)
        self.mount = mount
        self.top = f"{mount}/cotenant-contract-{os.getpid()}"
        self._stack = stack

    def spawn(self, threads: int) -> int:
        return self._stack.enter_context(real_process(threads=threads))

    def zombie(self) -> int:
        process = self._stack.enter_context(subprocess.Popen(["true"]))
        while Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
            pass
        return process.pid


def enter(kind: str, stack: ExitStack) -> World:
    """Return a world with a folder `top` of ours in it, which goes when the stack is closed; skip what is not here."""
    version = 1 if kind.endswith("v1") else 2
    world: World
    if kind.startswith("real"):
        world = _real(version, stack)
    else:
        world = FakeWorld(version=version, remembers_masks=not kind.startswith("old fake"))
    if version == 2:
        delegate(world, world.mount, stack)
    world.files.mkdir(world.top)
    stack.callback(_remove_all, world, world.top)  # runs before the processes end: tasks go to the mount first
    world.files.write(f"{world.top}/cpuset.mems", "0")
    world.files.write(f"{world.top}/cpuset.cpus", "0-1")
    return world


def delegate(world: World, folder: str, stack: ExitStack) -> None:
    """Let the groups in a folder have cpuset files (v2), as long as the stack is open."""
    path = f"{folder}/cgroup.subtree_control"
    if "cpuset" not in world.files.read(path).split():
        world.files.write(path, "+cpuset")
        stack.callback(partial(world.files.write, path, "-cpuset"))


def _real(version: int, stack: ExitStack) -> RealWorld:
    hierarchy = find_hierarchy()
    if hierarchy is None or hierarchy.version != version or not os.access(hierarchy.mount, os.W_OK):
        pytest.skip(f"needs root and a writable cgroup v{version} cpuset hierarchy")
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs CPUs 0 and 1")
    return RealWorld(hierarchy.mount, stack, version=version)


def _remove_all(world: World, folder: str) -> None:
    for name in world.files.folders(folder):
        _remove_all(world, f"{folder}/{name}")
    for pid in world.files.read(f"{folder}/cgroup.procs").split():
        world.files.write(f"{world.mount}/cgroup.procs", pid)
    world.files.rmdir(folder)
