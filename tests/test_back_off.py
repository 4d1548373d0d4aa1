from __future__ import annotations

from edgellm.wire.back_off import FORGOTTEN, FREE, MOST, BackOff


def test_the_wait_doubles_up_to_the_longest() -> None:
    table = BackOff(10)
    waits = []
    for _ in range(FREE + 6):
        table.wrong("a", 1, 100.0)
        waits.append(table.wait("a", 100.0))
    assert waits == [0.0] * FREE + [1, 2, 4, 8, 10, 10]
    assert table.wait("a", 107.5) == 2.5
    assert table.wait("a", 110.0) == 0
    assert table.wait("b", 100.0) == 0


def test_days_of_guessing_do_not_overflow() -> None:
    table = BackOff(60)
    table.wrong("a", 10**9, 0.0)
    assert table.wait("a", 0.0) == 60


def test_all_is_forgiven_after_a_while() -> None:
    table = BackOff(1e6)
    table.wrong("a", FREE + 20, 0.0)
    assert table.wait("a", FORGOTTEN) > 0
    assert table.wait("a", FORGOTTEN + 1) == 0
    assert not len(table)


def test_nobody_waits_where_the_longest_is_nothing() -> None:
    table = BackOff(0)
    table.wrong("a", 10_000, 0.0)
    assert table.wait("a", 0.0) == 0


def test_the_table_is_bounded_and_keeps_the_newest() -> None:
    table = BackOff(60)
    for number in range(3 * MOST):
        table.wrong(str(number), FREE + 1, 0.0)
        table.wrong("always", 1, 0.0)
    assert len(table) == MOST
    assert table.wait("always", 0.0) == 60
    assert table.wait("0", 0.0) == 0
