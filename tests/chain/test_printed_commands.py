"""Every command that a message tells the user to run does what it says, pasted into the folder where it was printed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from convert.backbone_file import read_backbone
from pretrain.images.cache import CachedImages
from pretrain.sweep import read_plan as read_sweep
from runtime.errors import UserError
from tests.transfer.train_command import write_resnet18
from transfer.planning.plan import load_plan

SWEEP = "output: out\nbase: [images]\nseeds: [0]\ngroups: {g: {a: []}}\n"
FINE_TUNING = "inits: {random: {random: true}}\nconfigs: [own_R18_FPN.yaml]\nseeds: [0]\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with a space in its name."""
    here = tmp_path / "my data"
    (here / "images").mkdir(parents=True)
    for k in range(3):
        Image.new("RGB", (20 + k, 16), (k, 2, 3)).save(here / "images" / f"{k}.png")
    (here / "sweep.yaml").write_text(SWEEP)
    (here / "plan.yaml").write_text(FINE_TUNING)
    write_resnet18(here / "backbone.pkl")  # leaves backbone.pth, the checkpoint that it was made from
    (here / "backbone.pkl").unlink()
    monkeypatch.chdir(here)
    return here


def printed(call: Callable[[], object], before: str) -> str:
    """The command that the error of ``call`` ends in, after the words ``before``."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert before in text
    return text.rpartition(before)[2]


def paste(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True)


def test_a_checkpoint_given_as_a_backbone(folder):
    command = printed(lambda: read_backbone(Path("backbone.pth")), "convert it first: ")
    done = paste(command, folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "backbone.pkl").is_file()
    read_backbone(folder / "backbone.pkl")


def test_a_folder_that_is_no_cache(folder):
    command = printed(lambda: CachedImages(Path("cache"), labels=False), "make one: ")
    done = paste(command.replace("IMAGES", "images"), folder)
    assert done.returncode == 0, done.stderr
    assert CachedImages(folder / "cache", labels=False)


def test_a_cache_of_other_images(folder):
    from pretrain.images import open_images

    make = printed(lambda: CachedImages(Path("cache"), labels=False), "make one: ").replace("IMAGES", "images")
    assert paste(make, folder).returncode == 0
    Image.new("RGB", (30, 30)).save(folder / "images" / "new.png")
    again = printed(
        lambda: CachedImages(Path("cache"), labels=False, made_from=open_images("images", labels=False)),
        "make it again: ",
    )
    assert paste("rm -r cache && " + again, folder).returncode == 0
    assert CachedImages(Path("cache"), labels=False, made_from=open_images("images", labels=False))


def test_plans_given_to_the_other_command(folder):
    sweep = printed(lambda: load_plan("sweep.yaml"), "run it by ")
    assert re.search(r"pretrain/sweep\.py sweep\.yaml$", sweep)
    assert "usage:" in paste(f"{sweep} --help", folder).stdout
    measure = printed(lambda: read_sweep(Path("plan.yaml")), "run it by ")
    done = paste(f"{measure} --power 1", folder)
    assert "plan: to see a difference of 1 AP" in done.stdout
