"""Which processor cores this process should compute on, and how many there are."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from edgellm import processor

ROOT = processor.ROOT
BIG = 0.5
"""Cores that can do less than this share of what the fastest can are left out: the step would wait
for their parts."""


@dataclass(frozen=True)
class Cores:
    """Where to compute."""

    count: int
    """Threads that are worth while, 1 at least: physical cores, within what a container is granted.
    Two threads of one core share its arithmetic: a second one adds nothing."""
    cpus: frozenset[int]
    """Logical processors to use."""
    little: bool
    """Whether there are others, slower ones, that this process might be put on."""


def find() -> Cores:
    """The big cores among those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    capacities = processor.capacities(ROOT)
    most = max((capacities.get(cpu, 0) for cpu in allowed), default=0)
    big = frozenset(cpu for cpu in allowed if capacities.get(cpu, 0) >= BIG * most)
    cores = {_siblings(cpu) for cpu in big}
    return Cores(max(1, min(len(cores), _granted())), big, little=len(big) < len(allowed))


def usable() -> int:
    """Threads that are worth while."""
    return find().count


def _siblings(cpu: int) -> str:
    """Names the core that a logical processor belongs to."""
    path = ROOT / processor.CPUS / f"cpu{cpu}/topology/thread_siblings_list"
    return processor.read_text(path) or str(cpu)


def _granted() -> int:
    """Cores that a container's limit on processor time comes to, rounded up; many without one."""
    try:
        quota, period = processor.read_text(ROOT / "sys/fs/cgroup/cpu.max").split()
        return math.ceil(int(quota) / int(period))
    except ValueError:  # no such file, or "max"
        return 1 << 16
