"""Checkpoints that were damaged or edited: one line, and the newest one that is whole is resumed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.settings.options import parse
from pretrain.training.checkpoints import CheckpointFolder, read_checked
from pretrain.training.run import pretrain
from runtime.distributed import World
from runtime.errors import UserError
from runtime.torch_files import load_torch

SMALL = ["-a", "resnet18", "--image-size", "32", "--batch-size", "8", "--epochs", "2", "--moco-k", "32", "--moco-dim",
         "16", "-p", "1", "--knn-every", "0", "--keep", "0", "-j", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a short run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    settings = parse([str(tiny_images), *SMALL, "--output", str(folder)])
    assert pretrain(settings, World(0, 1, 0, torch.device("cpu"))) == 0
    return folder / "checkpoint_0001.pth.tar"


def edited(finished: Path, tmp_path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    checkpoint = torch.load(finished, weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, tmp_path / "edited.pth.tar")
    return tmp_path / "edited.pth.tar"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(step=10**12), "step"),
        (lambda c: c.update(step=10**12, epoch=10**12 // 4), "step is 1000000000000, but its run has 8 steps"),
        (lambda c: c.update(step=-1), "step is -1, not a count"),
        (lambda c: c.update(step="8"), "step is '8', not a count"),
        (lambda c: c.update(step=True), "step is True, not a count"),
        (lambda c: c.update(steps_per_epoch=0), "steps_per_epoch is 0, not a count"),
        (lambda c: c.update(epoch=7), "epoch is 7"),
        (lambda c: c.update(settings=[1]), "settings is not a table"),
        (lambda c: c["settings"].update(epochs="x", iterations="y"), "its run has 'y' steps"),
        (lambda c: c.update(changes={"a": 1}), "changes is not a list"),
        (lambda c: c.update(changes=[1]), "changes is not a list"),
        (lambda c: c.update(optimizer=[]), "optimizer has no parameter group"),
        (lambda c: c["optimizer"].update(param_groups=[]), "optimizer has no parameter group"),
        (lambda c: c["optimizer"].update(state=[]), "optimizer has no state"),
        (lambda c: c["optimizer"]["param_groups"][0].update(momentum="x"), "optimizer has the momentum 'x'"),
        (lambda c: c["optimizer"]["param_groups"][0].update(lr=float("nan")), "optimizer has the lr nan"),
        (lambda c: c.update(state_dict=[]), "state_dict is not a table"),
        (lambda c: c["state_dict"].update(x=3), "state_dict is not a table"),
        (lambda c: c["state_dict"]["module.queue"].mul_(2), "weights_sha256"),
        (lambda c: c["state_dict"]["module.encoder_q.conv1.weight"].view(-1)[:1].add_(1), "weights_sha256"),
    ],
)
def test_what_a_run_does_not_write_is_refused(edit, message, finished: Path, tmp_path: Path) -> None:
    file = edited(finished, tmp_path, edit)
    with pytest.raises(UserError, match=message) as caught:
        read_checked(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("position", [10**9, -3, 32])
def test_a_position_outside_the_queue_is_refused(
    position: int, finished: Path, tmp_path: Path, tiny_images: Path
) -> None:
    def edit(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["module.queue_ptr"].fill_(position)
        del checkpoint["weights_sha256"]  # as in a file of the official code

    file = edited(finished, tmp_path, edit)
    settings = parse([str(tiny_images), *SMALL, "--output", str(tmp_path / "run"), "--resume", str(file)])
    with pytest.raises(UserError, match=f"queue_ptr is {position}, outside the queue of 32 keys"):
        pretrain(settings, World(0, 1, 0, torch.device("cpu")))


@pytest.mark.parametrize("entry", [{"momentum_buffer": torch.zeros(5)}, {"momentum_buffer": 3}, [3], None])
def test_momentum_that_does_not_fit_is_one_line(entry: Any, finished: Path, tmp_path: Path, tiny_images: Path) -> None:
    file = edited(finished, tmp_path, lambda c: c["optimizer"]["state"].update({0: entry}))
    settings = parse([str(tiny_images), *SMALL, "--output", str(tmp_path / "run"), "--resume", str(file)])
    with pytest.raises(UserError, match="does not fit this method and encoder"):
        pretrain(settings, World(0, 1, 0, torch.device("cpu")))


CALLS = {  # pickled calls of functions that weights_only allows, with arguments that they cannot take
    "reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n(I1\nI2\nI3\ntR.",
    "dtype": b"cnumpy\ndtype\n(S'zz'\ntR.",
    "encode": b"c_codecs\nencode\n(S'a'\nS'no'\ntR.",
}


@pytest.mark.parametrize("kind", CALLS)
def test_a_forged_call_is_one_line_and_passed_over(kind: str, finished: Path, tmp_path: Path) -> None:
    forged = tmp_path / "checkpoint_0002.pth.tar"
    with zipfile.ZipFile(forged, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + CALLS[kind])
        archive.writestr("archive/version", "3\n")
    with pytest.raises(UserError, match=r"checkpoint_0002"):
        load_torch(forged)
    (tmp_path / finished.name).write_bytes(finished.read_bytes())
    newest = CheckpointFolder(tmp_path, steps_per_epoch=4).newest()
    assert newest is not None
    assert newest[0].name == finished.name
