"""What waits to be looked at: one picture, and the sound of some seconds."""

from __future__ import annotations

import numpy as np
import pytest

from server.live.inbox import LiveInbox
from server.live.protocol import Picture, Sound

pytestmark = pytest.mark.anyio


def picture(time: float) -> Picture:
    return Picture(time=time, content=b"picture")


def sound(time: float, seconds: float = 1.0) -> Sound:
    return Sound(time=time, samples=np.zeros(round(8000 * seconds), np.int16))


async def test_a_newer_picture_takes_the_place_of_one_that_waits() -> None:
    inbox = LiveInbox(sample_rate=8000)
    for time in range(100):
        inbox.put(picture(time))
    assert inbox.num_dropped == 99
    arrived = inbox.take()
    assert arrived.picture == picture(99)
    assert arrived.waited_since is not None
    assert not inbox.take()
    inbox.put(picture(100))
    assert inbox.num_dropped == 99


async def test_sound_waits_in_its_order_and_not_without_bound() -> None:
    inbox = LiveInbox(sample_rate=8000)
    for time in range(100):
        inbox.put(sound(time))
    times = [each.time for each in inbox.take().sounds]
    assert times == list(range(92, 100))
    assert inbox.num_sounds_dropped == 92


async def test_waiting_ends_when_something_comes() -> None:
    inbox = LiveInbox(sample_rate=8000)
    await inbox.wait(0.0)
    assert not inbox.take()
    inbox.put(sound(0))
    await inbox.wait(60.0)
    assert inbox.take()
    inbox.wake()
    await inbox.wait(60.0)
