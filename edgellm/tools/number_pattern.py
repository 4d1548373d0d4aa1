"""Regular expressions for ranges of decimal numbers, as JSON spells them, without exponents."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction

DECIMALS, MOST_DECIMALS = 6, 12
"""Digits after the point: so many more than bounds have, and the most of all."""
MAX_CHOICES = 500
"""Multiples that are spelled out one by one."""
MAX_ENDINGS = 100
"""The same for what multiples end with, where that decides."""

_RUN = re.compile(r"(?:\[0-9\]){3,}")


@functools.lru_cache(maxsize=256)
def pattern(whole: bool, low: Decimal, high: Decimal, step: Decimal | None) -> str:
    """A regular expression for the numbers from `low` to `high`, only the multiples of `step` where
    that is given.

    Raises ValueError where there are none, or more multiples than can be spelled out.
    """
    if whole:
        places = 0
    elif step is not None:
        places = _decimals(step)
    else:
        places = min(DECIMALS + max(_decimals(low), _decimals(high)), MOST_DECIMALS)
    if places > MOST_DECIMALS:
        raise ValueError(f"multipleOf has more than {MOST_DECIMALS} decimals")
    patterns: list[str] = []
    smallest = Decimal(1).scaleb(-places)
    for sign, least, most in (("-", max(smallest, -high), -low), ("", max(Decimal(0), low), high)):
        if step is None:
            numbers = _unsigned(least, most, places)
        else:
            numbers = _multiples_of(step, least, most, places)
        patterns += [sign + number for number in numbers]
    if not patterns:
        raise ValueError("no number is possible")
    return f"({_RUN.sub(lambda run: f'[0-9]{{{len(run[0]) // 5}}}', '|'.join(patterns))})"


def _unsigned(low: Decimal, high: Decimal, places: int) -> Iterator[str]:
    """Patterns of the numbers from `low` (0 or more) to `high` with up to so many decimals.

    Between the whole numbers that the bounds begin with, any decimals may follow.
    """
    if low > high:
        return
    first, last = int(low), int(high)
    if low != first or first == last:
        below_one = 1 - Decimal(1).scaleb(-places)
        yield from _fractions(first, low - first, min(high - first, below_one), places)
        first += 1
    if last >= first:
        yield from _fractions(last, Decimal(0), high - last, places)
    if first < last:
        inner = "|".join("".join(digits) for digits in _range(first, last - 1, 1))
        yield f"({inner})" + (rf"(\.[0-9]{{1,{places}}})?" if places else "")


def _fractions(whole: int, low: Decimal, high: Decimal, places: int) -> Iterator[str]:
    """Patterns of the numbers that begin with `whole` and go on from `low` to `high`, below 1."""
    if not low:
        yield str(whole)
    for place in range(1, places + 1):
        least, most = low.scaleb(place), high.scaleb(place)
        for digits in _range(math.ceil(least), math.floor(most), place):
            yield rf"{whole}\.{''.join(digits)}"


def _multiples_of(step: Decimal, low: Decimal, high: Decimal, places: int) -> Iterator[str]:
    """Patterns of a step's multiples from `low` (0 or more) to `high`.

    A number with d decimals is a whole number of units of its last one; so the bounds and the step
    become those of whole numbers, for each d.
    """
    for place in range(places + 1):
        unit = Fraction(1, 10**place)
        least, most = math.ceil(Fraction(low) / unit), math.floor(Fraction(high) / unit)
        for digits in _multiples(least, most, (Fraction(step) / unit).numerator, place + 1):
            point = len(digits) - place
            number = "".join(digits[:point])
            yield number + rf"\.{''.join(digits[point:])}" if place else number


def _decimals(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _multiples(low: int, high: int, step: int, width: int) -> Iterator[Sequence[str]]:
    """Patterns, digit by digit, of the multiples of `step` (0 or more) from `low` to `high`, with
    `width` digits at least."""
    if low > high:
        return
    if step == 1:
        yield from _range(low, high, width)
        return
    # What a step leaves of ten, a hundred, … decides about the last digits alone.
    places = next((n for n in range(1, 10) if 10**n % step == 0), 0)
    if places and 10**places // step <= MAX_ENDINGS:
        whole = 10**places
        # The heads that all endings may follow; without a head there may be too many zeros.
        first, beyond = max(-(-low // whole), int(width <= places)), (high + 1) // whole
        if first < beyond:
            for head in _range(first, beyond - 1, max(1, width - places)):
                yield from ([*head, *f"{end:0{places}}"] for end in range(0, whole, step))
            yield from _listed(low, first * whole - 1, step, width)
            yield from _listed(beyond * whole, high, step, width)
            return
    yield from _listed(low, high, step, width)


def _listed(low: int, high: int, step: int, width: int) -> Iterator[Sequence[str]]:
    """The same, one by one."""
    multiples = range(-(-low // step) * step, high + 1, step)
    if len(multiples) > MAX_CHOICES:
        raise ValueError(f"there are {len(multiples)} multiples; at most {MAX_CHOICES}")
    yield from (f"{number:0{width}}" for number in multiples)


def _range(low: int, high: int, width: int) -> Iterator[Sequence[str]]:
    """Patterns, digit by digit, of the whole numbers (0 or more) from `low` to `high`, with `width`
    digits at least."""
    while low <= high:
        digits = f"{low:0{width}}"
        last = min(high, 10 ** len(digits) - 1)
        yield from _between(digits, str(last).zfill(len(digits)))
        low = last + 1


def _between(low: str, high: str) -> Iterator[Sequence[str]]:
    """The same for numbers of equally many digits."""
    rest = len(low) - 1
    if not rest:
        yield [_digit(low, high)]
        return
    begin, end = int(low[0]), int(high[0])
    if begin == end:
        yield from ([low[0], *more] for more in _between(low[1:], high[1:]))
        return
    if int(low[1:]):
        yield from ([low[0], *more] for more in _between(low[1:], "9" * rest))
        begin += 1
    if high[1:] != "9" * rest:
        yield from ([high[0], *more] for more in _between("0" * rest, high[1:]))
        end -= 1
    if begin <= end:
        yield [_digit(str(begin), str(end)), *["[0-9]"] * rest]


def _digit(low: str, high: str) -> str:
    return low if low == high else f"[{low}-{high}]"
