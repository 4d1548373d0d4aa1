"""The catalogue's devices are well formed, and what people say to them can be told apart."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from edgellm.training.devices import catalogue
from edgellm.training.devices.ability import FIELDS
from edgellm.training.devices.catalogue import Entry, Kind

KINDS = catalogue.kinds(False) + catalogue.kinds(True)


def given(entry: Entry, sentence: str, fixed: object) -> set[str]:
    """The arguments that a way of asking gives."""
    said = {one.name for one, field in zip(entry.free, FIELDS, strict=False) if field in sentence}
    assert isinstance(fixed, dict)
    return said | set(fixed)


def test_there_are_many_and_some_are_held_out() -> None:
    asks = sum(len(use.asks) for one in KINDS for entry in one.entries for use in entry.uses)
    assert len(KINDS) > 200
    assert asks > 10_000
    assert 10 < len(catalogue.kinds(True)) < len(KINDS) / 8
    held_out, learnt = ({one.name for one in catalogue.kinds(held)} for held in (True, False))
    assert len(held_out | learnt) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_of_device(kind: Kind) -> None:
    assert len(kind.entries) >= 3
    assert len(kind.declines) >= 6
    said: Counter[str] = Counter()
    for entry in kind.entries:
        required = {one.name for one in entry.arguments} - set(entry.optional)
        for use in entry.uses:
            whole = [way for way in (*use.asks, *use.unseen) if "{" not in way]
            said.update(whole)
            for sentence in (*use.asks, *use.unseen):
                assert required <= given(entry, sentence, use.fixed), sentence
                assert not re.search(r"\{[a-z_0-9]{2,}\}", sentence), sentence
            for lacking in (*use.lacking, *use.lacking_second):
                assert required - given(entry, lacking, use.fixed), lacking
    assert not set(said) & set(kind.declines)
    assert max(said.values()) == 1, said.most_common(3)


def test_what_is_wrong_is_named() -> None:
    listed = {"names": ["f"], "does": ["d"], "asks": [["open it", {"wide": True}]]}
    with pytest.raises(ValueError, match="'open it' decides wide"):
        catalogue.entry(listed)
