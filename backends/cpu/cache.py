"""The processor's largest cache, as Linux tells of it."""

from __future__ import annotations

from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def cache_bytes() -> int:
    """Size of the first processor's largest cache; 0 where the system doesn't say."""
    sizes = (_parsed(path) for path in CACHES.glob("index*/size"))
    return max(sizes, default=0)


def _parsed(path: Path) -> int:
    """Bytes in a file such as "32768K"."""
    try:
        text = path.read_text().strip()
        return int(text.rstrip("KMG")) * UNITS.get(text[-1:], 1)
    except (OSError, ValueError):
        return 0
