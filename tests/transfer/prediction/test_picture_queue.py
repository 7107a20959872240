"""Pictures are drawn while the network goes on, with few of them waiting, and no failure is lost."""

from __future__ import annotations

import threading

import pytest

from runtime.errors import UserError
from transfer.prediction import output
from transfer.prediction.output import AHEAD, PictureQueue

SECONDS = 20  # a limit for waiting, never reached where it works


@pytest.fixture
def drawing(monkeypatch):
    """``save_picture`` waits for ``go`` and notes what it drew; it fails for "bad"."""

    class Drawing:
        go, drawn = threading.Event(), []

    def save(found, path):
        assert Drawing.go.wait(SECONDS)
        if path == "bad":
            raise UserError("bad cannot be read")
        Drawing.drawn.append(path)

    Drawing.go.clear()
    Drawing.drawn.clear()
    monkeypatch.setattr(output, "save_picture", save)
    return Drawing


def test_the_next_image_does_not_wait_for_the_picture(drawing):
    with PictureQueue() as pictures:
        for number in range(AHEAD):
            pictures.add(None, number)
        assert drawing.drawn == []  # all were added while the first one is still being drawn
        drawing.go.set()
    assert drawing.drawn == list(range(AHEAD))  # in order, and complete at the end


def test_at_most_a_few_wait(drawing):
    with PictureQueue() as pictures:
        for number in range(AHEAD):
            pictures.add(None, number)
        one_more = threading.Thread(target=pictures.add, args=(None, AHEAD))
        one_more.start()
        one_more.join(0.2)
        assert one_more.is_alive()  # it waits for room
        drawing.go.set()
        one_more.join(SECONDS)
        assert not one_more.is_alive()
    assert len(drawing.drawn) == AHEAD + 1


def test_a_failure_is_raised_at_the_end_or_before(drawing):
    drawing.go.set()
    with pytest.raises(UserError, match="bad cannot be read"), PictureQueue() as pictures:
        pictures.add(None, "bad")
    with pytest.raises(UserError, match="bad cannot be read"), PictureQueue() as pictures:
        for path in ("bad", *range(AHEAD)):
            pictures.add(None, path)
        pytest.fail("the failure was to be raised when the queue was full")


def test_an_error_in_the_block_ends_the_drawing(drawing):
    with pytest.raises(KeyboardInterrupt), PictureQueue() as pictures:
        for number in range(AHEAD):
            pictures.add(None, number)
        threading.Timer(0.2, drawing.go.set).start()
        raise KeyboardInterrupt
    assert drawing.drawn in ([], [0])  # what was being drawn; the others are left out
