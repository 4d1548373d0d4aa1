import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from link_ends import HELLO, WELCOME, exchange, frame, opened, seen, types

from edgellm.errors import LinkError
from edgellm.link import frames, reliable
from edgellm.link.messages import (
    Accept,
    Ack,
    Ask,
    Call,
    Chunk,
    Failed,
    Finished,
    Note,
    Ping,
    Pong,
    Result,
    StatusReport,
    Taken,
    Tools,
    Welcome,
    pack,
)
from edgellm.link.reliable import Reliable
from edgellm.link.send_queue import MORE


def test_closed_only_the_handshake_passes():
    link = Reliable()
    assert link.receive(frame(HELLO), 0.0) == [HELLO]
    assert link.receive(frame(Taken(1)) + frame(Ping()) + frame(Ack()), 0.0) == []
    assert link.strangers == 3
    link.receive(b"noise\0", 0.0)
    assert link.output(0.0) == b""
    assert link.deadline() is None
    with pytest.raises(RuntimeError):
        link.send(Taken(1))


@pytest.mark.parametrize("code", ["hello", "auth"])
def test_refusals_pass_a_closed_link(code):
    link, peer = Reliable(), Reliable()
    link.send(Failed(0, code, "no"))
    assert peer.receive(link.output(0.0), 0.0) == [Failed(0, code, "no")]


def test_reset_begins_anew():
    host, device = opened()
    device.send(Ask(1, 0, "hi"))
    assert exchange(host, device) == ([Ask(1, 0, "hi")], [])
    host.send(Chunk(0, "lost"))
    host.send(WELCOME)
    host.reset(244, 4096)
    device.reset(244, 32768)
    host.send(Accept(1, 0))
    data = host.output(0.0)
    assert [(each.type, each.seq) for each in seen(data)] == [(Welcome.TYPE, 0), (Accept.TYPE, 0)]
    assert device.receive(data, 0.0) == [WELCOME, Accept(1, 0)]
    assert host.waiting == len(pack(Accept(1, 0))[1])


def test_close_drops_all():
    host, device = opened()
    host.send(Note("lost"))
    host.output(0.0)
    device.send(Taken(1))
    host.close()
    assert host.waiting == 0
    assert host.receive(device.output(0.0), 0.0) == []
    assert host.output(10.0) == b""
    assert host.deadline() is None


# Carrying


def test_messages_arrive_in_order():
    host, device = opened()
    to_host = [Ask(1, 0, "é" * 8000), Tools([["f", "x" * 200, {}, 0]] * 20), Result(1, "ok", 5)]
    to_device = [
        Accept(1, 0),
        Chunk(0, "abc"),
        Call(1, "f", {"x": [1.5, None]}, 100),
        StatusReport({"text": "y" * 3000}),
        Finished(1, 3, "stop", 1, 1, 1),
    ]
    for message in to_host:
        device.send(message)
    for message in to_device:
        host.send(message)
    assert exchange(host, device) == (to_host, to_device)
    assert host.waiting == device.waiting == 0
    assert host.deadline() is device.deadline() is None


def test_numbers_wrap_around():
    host, device = opened()
    sent = [Accept(1 + number, number) for number in range(1000)]
    got = []
    for message in sent:
        host.send(message)
        got += exchange(host, device)[1]
    assert got == sent
    assert host.frames_lost == 0


@given(st.lists(st.text(max_size=300), max_size=20), st.sampled_from([36, 68, 244]))
def test_text_is_joined_and_cut_at_whole_characters(pieces, mtu):
    host, device = opened(mtu=mtu, room=0)
    offset = 0
    for piece in pieces:
        host.send(Chunk(offset, piece))
        offset += len(piece.encode())
    got = b""
    for chunk in exchange(host, device)[1]:
        assert chunk.offset == len(got)
        assert chunk.text
        got += chunk.text.encode()
    assert got.decode() == "".join(pieces)


def test_small_pieces_share_frames():
    host, device = opened()
    for offset in range(100):
        host.send(Chunk(offset, "x"))
    assert len(exchange(host, device)[1]) <= 3


def test_text_with_a_gap_isnt_joined():
    host, device = opened()
    sent = [Chunk(0, "a"), Chunk(7, "b"), Chunk(0, "c")]
    for chunk in sent:
        host.send(chunk)
    assert exchange(host, device)[1] == sent


def test_no_fragments_for_a_peer_without_room():
    host, device = opened(mtu=68, room=0)
    longest = Note("x" * 61)
    assert len(pack(longest)[1]) == 64
    host._quality.failed()  # frames are shorter than that now
    assert host.payload < 64
    host.send(longest)
    assert exchange(host, device)[1] == [longest]


def test_what_the_peer_has_no_room_for():
    host, device = opened(mtu=68, room=0)
    with pytest.raises(LinkError, match="room"):
        host.send(Call(1, "f", {"x": "y" * 100}, 1))
    host.send(Failed(1, "internal", "é" * 500, 5, 6))
    host.send(Note("x" * 500))
    (failed, note) = exchange(host, device)[1]
    assert replace(failed, text="") == Failed(1, "internal", "", 5, 6)
    assert failed.text.startswith("é" * 15)
    assert note.text.startswith("x" * 50)


def test_a_peer_that_takes_nothing_is_given_up():
    host, _ = opened()
    for offset in range(0, 60_000, 1000):
        host.send(Chunk(offset, "x" * 1000))
    with pytest.raises(LinkError, match="unacknowledged"):
        host.send(Chunk(60_000, "x" * 10_000))
    assert host.waiting == 60_000


# Receiving what isn't right


def test_a_damaged_frame_is_complained_about_at_once():
    host, device = opened()
    host.send(Accept(1, 0))
    data = bytearray(host.output(0.0))
    data[3] ^= 0x80
    assert device.receive(bytes(data), 0.0) == []
    (complaint,) = seen(device.output(0.0))
    assert (complaint.type, complaint.ack) == (Ack.TYPE, 0)
    assert device.frame_errors == 1


def test_a_gap_is_complained_about_at_once():
    _, device = opened()
    assert device.receive(frame(Accept(1, 0), seq=1), 0.0) == []
    assert [(each.type, each.ack) for each in seen(device.output(0.0))] == [(Ack.TYPE, 0)]


def test_a_duplicate_is_acknowledged_again():
    _, device = opened()
    assert device.receive(frame(Accept(1, 0)), 0.0) == [Accept(1, 0)]
    device.output(0.0)
    assert device.receive(frame(Accept(1, 0)), 0.0) == []
    assert [(each.type, each.ack) for each in seen(device.output(0.0))] == [(Ack.TYPE, 1)]


def test_what_breaks_the_rules_of_messages_is_acknowledged_and_counted():
    _, device = opened()
    bad = [(Accept.TYPE, b"\x90"), (Failed.TYPE, b"junk"), (0x55, b"?"), (Note.TYPE, b"\x91\xc0")]
    for seq, message in enumerate(bad):
        assert device.receive(frame(message, seq=seq), 0.0) == []
    assert device.receive(frame(Accept(1, 0), seq=4), 0.0) == [Accept(1, 0)]
    assert device.peer_errors == 4
    assert "Note" in str(device.peer_error)
    assert seen(device.output(0.0))[-1].ack == 5


def test_a_body_without_header():
    _, device = opened()
    assert device.receive(frames.encode(b"") + frames.encode(b"abc"), 0.0) == []
    assert device.peer_errors == 2


def test_fragments_beyond_the_room_are_dropped_but_acknowledged():
    _, device = opened(room=500)
    tracemalloc.start()
    for seq in range(300):
        data = frame((Note.TYPE, b"x" * 100), seq=seq & 0xFF, head=Note.TYPE | MORE)
        assert device.receive(data, 0.0) == []
        assert seen(device.output(0.0))[-1].ack == (seq + 1) & 0xFF
    assert tracemalloc.get_traced_memory()[0] < 10_000  # of 30,000 bytes that came
    tracemalloc.stop()
    assert device.receive(frame((Note.TYPE, b""), seq=44), 0.0) == []
    assert device.peer_errors == 1
    assert device.receive(frame(Accept(1, 0), seq=45), 0.0) == [Accept(1, 0)]


def test_fragments_that_have_no_end():
    _, device = opened()
    device.receive(frame((Note.TYPE, b"\x91"), head=Note.TYPE | MORE), 0.0)
    assert device.receive(frame(Accept(1, 0), seq=1), 0.0) == [Accept(1, 0)]
    assert device.peer_errors == 1


def test_unnumbered_messages_have_no_fragments():
    _, device = opened()
    assert device.receive(frame(Ping(), head=Ping.TYPE | MORE), 0.0) == []
    assert device.peer_errors == 1


@pytest.mark.parametrize("ack", [2, 9, 128, 255])
def test_an_ack_of_what_was_never_sent(ack):
    host, device = opened()
    host.send(Accept(1, 0))
    data = host.output(0.0)
    host.receive(frame(Ack(), ack=ack), 0.0)
    assert host.peer_errors == 1
    assert host.waiting
    assert device.receive(data, 0.0) == [Accept(1, 0)]
    host.receive(device.output(0.0), 0.0)
    assert host.waiting == 0


def test_ping_is_answered():
    host, device = opened()
    device.send(Ping())
    assert host.receive(device.output(0.0), 0.0) == [Ping()]
    assert device.receive(host.output(0.0), 0.0) == [Pong()]


def test_an_echo_doesnt_last():
    """A line whose ends are joined gives back what we send."""
    host, _ = opened(baud=115200)
    host.send(Note("hello"))
    now = sent = 0.0
    for _ in range(1000):
        data = host.output(now)
        sent += len(data)
        host.receive(data, now)
        now = host.deadline() if host.deadline() is not None else now + 1
    assert sent / now < 1000


# Sending: window, credit, timers


def test_the_window_is_kept():
    host, _ = opened(window=3)
    host.send(Chunk(0, "x" * 2000))
    assert [each.seq for each in seen(host.output(0.0))] == [0, 1, 2]
    assert host.output(0.0) == b""
    host.receive(frame(Ack(), ack=2, credit=2), 0.01)
    assert [each.seq for each in seen(host.output(0.01))] == [3]


def test_without_credit_there_are_pings():
    host, _ = opened(window=1)
    host.send(Chunk(0, "x" * 200))
    host.output(0.0)
    host.receive(frame(Ack(), ack=1, credit=0), 0.01)
    assert host.output(0.01) == b""
    now = 0.01
    for _ in range(5):
        now = host.deadline()
        assert types(host.output(now)) == [Ping.TYPE]
    host.receive(frame(Pong(), ack=1, credit=1), now)
    assert [(each.type, each.seq) for each in seen(host.output(now))] == [(Chunk.TYPE, 1)]


def test_a_complaint_makes_it_go_back():
    host, _ = opened(baud=115200)
    host.send(Chunk(0, "x" * 2000))
    now, sent = 0.0, []
    while len(sent) < 4:
        sent += seen(host.output(now))
        now = host.deadline()
    host.receive(frame(Ack(), ack=1) + frame(Ack(), ack=1), now)
    again = []
    while len(again) < 3:
        again += seen(host.output(now))
        now = host.deadline()
    assert again == sent[1:4]
    assert host.frames_lost == 1


def test_the_oldest_frame_goes_out_alone_after_a_pause():
    host, device = opened(baud=115200)
    for number in range(1, 4):
        host.send(Call(number, "f", {}, 0))
    now, data = 0.0, b""
    while len(seen(data)) < 3:
        data += host.output(now)
        now = host.deadline()
    first = seen(data)[0]
    pauses = []
    for _ in range(6):
        last, now = now, host.deadline()
        pauses.append(now - last)
        assert seen(host.output(now)) == [first]
    assert pauses[2] == pytest.approx(2 * pauses[1], rel=0.05)
    assert pauses[-1] == pytest.approx(reliable.LONGEST_PAUSE, rel=0.05)
    # The line is back: the device says something of its own.
    now += 0.1
    device.send(Taken(1))
    host.receive(device.output(now), now)
    assert seen(host.output(now))[0].payload == first.payload


def test_a_frame_that_was_damaged_again_needs_no_long_pause():
    host, device = opened(baud=115200)
    host.send(Call(1, "f", {}, 0))
    now = 0.0
    for _ in range(6):  # lost without a word
        host.output(now)
        before, now = now, host.deadline()
    assert now - before == pytest.approx(reliable.LONGEST_PAUSE, rel=0.05)
    assert host.output(now)
    assert device.receive(b"\0damaged\0", now) == []
    host.receive(device.output(now), now)
    assert host.deadline() - now < reliable.LONGEST_PAUSE / 4


def test_output_is_paced():
    host, _ = opened(baud=9600)
    host.send(Chunk(0, "x" * 4000))
    assert len(seen(host.output(1.0))) == 1
    first = host.deadline()
    assert 1.06 < first < 1.08  # a frame of 75 bytes takes 78 ms
    assert host.output(1.05) == b""
    assert len(seen(host.output(first))) == 1


def test_stuck_when_the_line_gets_bad():
    host, _ = opened(baud=115200)
    host._quality.carried(100_000)
    host._quality.carried(0)
    assert host.payload == 240
    host.send(Chunk(0, "x" * 4000))
    now = 0.0
    for _ in range(200):
        if host.output(now):
            assert not host.stuck or host.frames_lost >= reliable.STUCK - 1
        now = max(now + 0.03, host.deadline())
        host.receive(frame(Ack()), now)
    assert host.stuck
    host.reset(244, 4096)
    assert not host.stuck
    assert host.payload < 100
