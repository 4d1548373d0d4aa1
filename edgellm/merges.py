"""Byte-pair merging (Sennrich et al. 2016, arXiv:1508.07909), in n log n."""

from __future__ import annotations

import heapq
from collections.abc import Mapping


def merge(parts: list[str], ranks: Mapping[str, int], joint: str) -> list[str]:
    """Merge adjacent parts, lowest rank first, leftmost first among equals, until none is ranked.

    The rank of the pair (a, b) is `ranks[a + joint + b]`: with joint " " a list of merges gives
    the ranks, with joint "" the merged pieces' own.
    """
    count = len(parts)
    parts = list(parts)
    before = list(range(-1, count - 1))
    after = list(range(1, count + 1))
    rank_of = ranks.get
    # One integer a heap entry, rank and place, is quicker to compare than a tuple.
    bits = count.bit_length()
    mask = (1 << bits) - 1
    # The entry of each part with its successor; one on the heap that differs is out of date.
    current: list[int | None] = [None] * count
    heap: list[int] = []
    for i in range(count - 1):
        rank = rank_of(parts[i] + joint + parts[i + 1])
        if rank is not None:
            current[i] = entry = rank << bits | i
            heap.append(entry)
    heapq.heapify(heap)
    push, pop = heapq.heappush, heapq.heappop
    while heap:
        entry = pop(heap)
        i = entry & mask
        if current[i] != entry:
            continue
        gone = after[i]
        right = after[gone]
        merged = parts[i] + parts[gone]
        parts[i], parts[gone] = merged, ""
        current[i] = current[gone] = None
        after[i] = right
        if right < count:
            before[right] = i
            rank = rank_of(merged + joint + parts[right])
            if rank is not None:
                current[i] = entry = rank << bits | i
                push(heap, entry)
        left = before[i]
        if left >= 0:
            rank = rank_of(parts[left] + joint + merged)
            current[left] = None
            if rank is not None:
                current[left] = entry = rank << bits | left
                push(heap, entry)
    return [part for part in parts if part]
