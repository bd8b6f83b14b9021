"""Messages between processes: complete, validated, and separate from standard output."""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchship.serve.process import messages
from torchship.serve.process.channel import LARGEST, LENGTH, Channel


def talk(sent: list[bytes], raw: list[bytes] | None = None) -> tuple[list[bytes], bool]:
    """Send messages, or raw bytes, and close; return what was heard and whether the end was."""

    async def run() -> tuple[list[bytes], bool]:
        one, other = socket.socketpair()
        heard: list[bytes] = []
        closed = asyncio.Event()
        receiver, sender = Channel(other), Channel(one)
        receiver.listen(heard.append, closed.set)
        if raw is not None:
            for part in raw:
                one.sendall(part)
            one.close()
        else:
            sender.listen(lambda message: None, lambda: None)
            for message in sent:
                sender.send(message)
            while len(heard) < len(sent):
                await asyncio.sleep(0)
            sender.close()
        await asyncio.wait_for(closed.wait(), 60)
        return heard, closed.is_set()

    return asyncio.run(run())


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_messages_come_whole_and_in_order(sent: list[bytes]) -> None:
    assert talk(sent) == (sent, True)


def test_a_message_may_be_larger_than_a_socket_holds() -> None:
    sent = [b"a" * (8 << 20), b"b", b"c" * (1 << 20)]
    assert talk(sent) == (sent, True)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 7))
def test_the_bytes_may_come_in_any_pieces(sent: list[bytes], size: int) -> None:
    whole = b"".join(LENGTH.pack(len(message)) + message for message in sent)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert talk([], pieces)[0] == sent


def test_what_is_cut_short_or_too_large_ends_the_channel() -> None:
    assert talk([], [LENGTH.pack(5) + b"1234"]) == ([], True)
    assert talk([], [LENGTH.pack(1) + b"a" + LENGTH.pack(LARGEST + 1)]) == ([b"a"], True)


def test_a_message_that_raises_does_not_keep_the_next_from_being_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> list[bytes]:
        one, other = socket.socketpair()
        heard: list[bytes] = []

        def hear(message: bytes) -> None:
            heard.append(message)
            messages.from_worker(message)

        receiver, sender = Channel(other), Channel(one)
        receiver.listen(hear, lambda: None)
        for message in (b"change \xff", b"{}", messages.ReportLine(line="a").encoded()):
            sender.send(message)
        while len(heard) < 3:
            await asyncio.sleep(0)
        receiver.close()
        sender.close()
        return heard

    assert len(asyncio.run(run())) == 3
    assert [record.message for record in caplog.records] == ["a message of another process"] * 2


def test_the_first_message_can_be_waited_for_before_there_is_a_loop() -> None:
    one, other = socket.socketpair()
    sender, receiver = Channel(one), Channel(other)
    sender.send(b"first")
    sender.send(b"second")
    assert receiver.receive() == b"first"

    async def rest() -> bytes:
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        receiver.listen(heard.set_result, lambda: None)
        try:
            return await asyncio.wait_for(heard, 60)
        finally:
            receiver.close()

    assert asyncio.run(rest()) == b"second"
    sender.close()


def test_an_end_that_is_closed_before_the_first_message_is_no_message() -> None:
    one, other = socket.socketpair()
    one.close()
    receiver = Channel(other)
    assert receiver.receive() is None
    receiver.close()


Read = Callable[[bytes], object]


@pytest.mark.parametrize("read", [messages.to_worker, messages.from_worker])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"change " + pickle.dumps("x"),
        b"[]",
        b'{"kind":"start"}',
        b'{"kind":"nonsense"}',
        b'{"kind":"report_line","line":7}',
        b'{"kind":"report_line","line":"a","more":1}',
        b'{"kind":"outcome","id":"1","failure":{"code":1}}',
    ],
)
def test_what_is_no_message_is_refused(read: Read, data: bytes) -> None:
    with pytest.raises(messages.MessageError):
        read(data)


def test_messages_survive_the_way() -> None:
    change = messages.Change(id="1", what="load", model="a\nb")
    assert messages.to_worker(change.encoded()) == change
    assert messages.from_worker(change.encoded()) == change
    credentials = messages.Credentials(
        api_keys=(messages.Key(name="a", digest="00", rate=None, slot=None),),
        certificate=messages.Certificate(chain="c", key=None),
        trusted_keys=("11",),
    )
    renew = messages.Renew(credentials=credentials)
    assert messages.to_worker(renew.encoded()) == renew
