"""The file of image scores: a running mean, what it refuses, what it restores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pretrain.batches.scores import FILE, ImageScores
from runtime.errors import UserError

PRINT = "ab" * 32


def test_scores_are_running_means_in_a_mapped_file(tmp_path: Path) -> None:
    scores = ImageScores(tmp_path, 5, PRINT)
    assert np.isnan(scores.now).all()
    scores.note(np.array([3, 1]), np.array([2.0, 4.0], np.float32), 0.75)
    scores.note(np.array([3, 0, 0, 2, 4]), np.array([4.0, 1.0, 3.0, np.nan, np.inf], np.float32), 0.75)
    np.testing.assert_allclose(scores.now, [2.0, 4.0, np.nan, 2.5, np.nan])
    assert np.isnan(scores.drawn_by).all()
    scores.begin_epoch()
    np.testing.assert_array_equal(scores.drawn_by, scores.now)
    assert isinstance(scores.now, np.memmap)
    raw = np.fromfile(tmp_path / FILE, np.float32, offset=128).reshape(2, 5)
    np.testing.assert_array_equal(raw[0], scores.now)
    again = ImageScores(tmp_path, 5, PRINT)  # a new run has seen nothing; a resumed one loads its checkpoint
    assert np.isnan(again.now).all()
    again.load(raw)
    np.testing.assert_array_equal(again.state(), raw)
    alone = ImageScores(None, 5, PRINT)
    alone.note(np.array([1]), np.array([4.0]), 0.5)
    assert alone.now[1] == 4


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data.replace(b"abab", b"acab", 1), "is of other images"),
    (lambda data: data.replace(b"1 5", b"1 6", 1), "is of other images"),
    (lambda data: data[:-1], "is damaged"),
    (lambda data: b"", "is damaged"),
    (lambda data: b"\x00" * len(data), "is damaged"),
])  # fmt: skip
def test_a_file_of_other_images_is_refused(tmp_path: Path, change, message: str) -> None:
    ImageScores(tmp_path, 5, PRINT)
    content = change((tmp_path / FILE).read_bytes())
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match=f"scores.bin {message}, .* move it away"):
        ImageScores(tmp_path, 5, PRINT)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_file_that_names_its_images_as_earlier_versions_did_is_kept(tmp_path: Path) -> None:
    ImageScores(tmp_path, 5, PRINT)
    asked: list[str] = []

    def like(recorded: str) -> str:
        asked.append(recorded)
        return PRINT if recorded == PRINT else "sampled:" + PRINT

    for _ in range(2):
        ImageScores(tmp_path, 5, "sampled:" + PRINT, like)
    assert asked == [PRINT, "sampled:" + PRINT]  # it has the new name by then
    with pytest.raises(UserError, match="is of other images"):
        ImageScores(tmp_path, 5, "sampled:" + "cd" * 32, lambda recorded: "sampled:" + "cd" * 32)
