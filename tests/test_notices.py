"""edgellm/notices.py: who is told what."""

from __future__ import annotations

from edgellm.notices import Notices


def test_all_who_listen_are_told_and_late_comers_of_what_still_holds() -> None:
    notices = Notices()
    early: list[str] = []
    late: list[str] = []
    deaf = notices.listen(early.append)
    notices.tell("started")
    notices.tell("hot", holds=True)
    notices.listen(late.append)
    notices.tell("cool")
    deaf()
    deaf()
    notices.tell("and on")
    notices.listen(early.append)
    assert early == ["started", "hot", "cool"]
    assert late == ["hot", "cool", "and on"]


def test_one_may_stop_listening_while_it_is_told() -> None:
    notices = Notices()
    told: list[str] = []

    def once(text: str) -> None:
        told.append(text)
        deaf()

    deaf = notices.listen(once)
    notices.listen(told.append)
    notices.tell("one")
    notices.tell("two")
    assert told == ["one", "one", "two"]
