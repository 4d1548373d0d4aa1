"""How much memory this process has now."""

from __future__ import annotations

import os
import resource
import sys


def resident() -> int:
    """Bytes that are resident; where the system doesn't tell, the most that ever were."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
