"""Byte-pair merging (Sennrich et al. 2016, arXiv:1508.07909), in n log n."""

from __future__ import annotations

import heapq
from collections.abc import Mapping


def merge(parts: list[str], ranks: Mapping[str, float], joint: str) -> list[str]:
    """Merge adjacent parts, lowest rank first, leftmost first among equals, until none is ranked.

    The rank of the pair (a, b) is `ranks[a + joint + b]`: with joint " " a list of merges gives
    the ranks, with joint "" the merged pieces' own scores do.
    """
    count = len(parts)
    parts = list(parts)
    before = list(range(-1, count - 1))
    after = list(range(1, count + 1))
    # The rank of each part with its successor; a heap entry that differs from it is out of date.
    current = [ranks.get(parts[i] + joint + parts[i + 1]) for i in range(count - 1)]
    current.append(None)
    heap = [(rank, i) for i, rank in enumerate(current) if rank is not None]
    heapq.heapify(heap)
    while heap:
        rank, i = heapq.heappop(heap)
        if current[i] != rank:
            continue
        gone = after[i]
        parts[i] += parts[gone]
        parts[gone] = ""
        current[gone] = None
        after[i] = after[gone]
        current[i] = None
        if after[i] < count:
            before[after[i]] = i
            current[i] = found = ranks.get(parts[i] + joint + parts[after[i]])
            if found is not None:
                heapq.heappush(heap, (found, i))
        left = before[i]
        if left >= 0:
            current[left] = found = ranks.get(parts[left] + joint + parts[i])
            if found is not None:
                heapq.heappush(heap, (found, left))
    return [part for part in parts if part]
