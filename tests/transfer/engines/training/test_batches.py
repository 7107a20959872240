"""What the training feed keeps in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest

from transfer.engines.training import batches as feeding


class Listed(list):  # type: ignore[type-arg]
    """A list that a weak reference can watch."""


def test_the_list_of_records_is_let_go_once_packed(
    monkeypatch: pytest.MonkeyPatch, tiny_config: Callable[..., Any]
) -> None:
    watched = []
    read = feeding.training_records

    def records(cfg: Any) -> list[Any]:
        listed = Listed(read(cfg))
        watched.append(weakref.ref(listed))
        return listed

    monkeypatch.setattr(feeding, "training_records", records)
    feed = feeding.TrainingFeed(tiny_config(), 0, 1, 7)
    assert watched[0]() is None
    assert len(next(feed.streams(7, 0, 0)[0])) == 2
