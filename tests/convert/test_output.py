"""Where a conversion is written: folders, and backbones of other sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.backbone_file import format_of, output_stem, replaced, write_backbone
from convert.conversion import convert
from tests.convert.checkpoints import random_net, save


def test_a_trailing_slash_is_a_folder(run_cli, tmp_path: Path) -> None:
    """In a loop over files the new folder became one file, overwritten once for each."""
    for label in ("a", "b"):
        save(random_net(label).state_dict(), tmp_path / f"{label}.pth")
        run_cli(["convert/to_d2.py", tmp_path / f"{label}.pth", f"{tmp_path}/new/", "--no-verify"], check=0)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.json", "a.pkl", "b.json", "b.pkl"]
    run_cli(["convert/to_torchvision.py", tmp_path / "new/a.pkl", f"{tmp_path}/other.pth/", "--no-verify"], check=0)
    assert sorted(p.name for p in (tmp_path / "other.pth").iterdir()) == ["a_torchvision.json", "a_torchvision.pth"]


@pytest.mark.parametrize(
    ("out", "form", "stem"),
    [
        (None, "", "in/c"),
        ("x.pkl", "pkl", "x"),
        ("x", "", "x"),
        ("x.pkl/", "", "x.pkl/c"),
        ("deep/er/", "", "deep/er/c"),
        ("x.safetensors", "safetensors", "x"),
    ],
)
def test_names_of_outputs(out: str | None, form: str, stem: str) -> None:
    assert format_of(out) == form
    assert output_stem(Path("in/c.pth"), out, ("pkl",)) == Path(stem)


def test_replacing_the_backbone_of_another_source_is_said(run_cli, tmp_path: Path) -> None:
    first = save(random_net("a").state_dict(), tmp_path / "a.pth")
    second = save(random_net("b").state_dict(), tmp_path / "b.pth")
    out = tmp_path / "out.pkl"
    assert "is replaced" not in run_cli(["convert/to_d2.py", first, out], check=0).stdout
    assert "is replaced" not in run_cli(["convert/to_d2.py", first, out], check=0).stdout
    assert (
        "described the backbone of another a.pth; it is replaced"
        in run_cli(["convert/to_d2.py", second, out], check=0).stdout
    )


def test_replacing_by_name_or_content(tmp_path: Path) -> None:
    path = save(random_net("a").state_dict(), tmp_path / "a.pth")
    write_backbone(convert(path), tmp_path / "out")
    copy = tmp_path / "copy.pth"
    copy.write_bytes(path.read_bytes())
    assert replaced(convert(copy), tmp_path / "out") == ()  # the same content
    assert replaced(convert(copy, verify=False), tmp_path / "out") != ()  # not compared by content
    save(random_net("b").state_dict(), path)
    assert replaced(convert(path), tmp_path / "out") != ()  # other content under the same name
    assert replaced(convert(path), tmp_path / "new") == ()
