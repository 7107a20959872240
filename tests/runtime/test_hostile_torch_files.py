"""``torch.save`` files from strangers, read to resume: one line within moments, and a damaged newest is passed over."""

from __future__ import annotations

import argparse
import collections
import os
import random
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from runtime.torch_files import load_torch, save_torch
from transfer.engines.weights.checkpoints import OWN_KEY, load_latest

START = b"\x80\x02"


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def doubling(levels: int = 60) -> bytes:
    """t = (t, t), ``levels`` times, in the memo under that number: 2 ** levels steps to hash or print."""
    pairs = b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(levels))
    return b")q\x00" + pairs


RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
PICKLES = {
    "arguments of another type": RECONSTRUCT + b"K\x01K\x02K\x03\x87R.",
    "an unknown dtype": name("numpy", "dtype") + text("zz") + b"\x85R.",
    "an unknown encoding": name("_codecs", "encode") + text("a") + text("no") + b"\x86R.",
    "an array of 16 TB": RECONSTRUCT + b"(" + name("numpy", "ndarray") + number(1 << 44) + b"\x85" + text("b") + b"tR.",
    "a bytearray of 4 TB": name("builtins", "bytearray") + number(1 << 42) + b"\x85R.",
    "a key that doubles": doubling() + b"}h\x3cK\x01s.",
    "a key that doubles among others": doubling() + b"}(" + text("a") + b"K\x01h\x3cK\x01u.",
    "a set of what doubles": doubling() + name("builtins", "set") + b"]h\x3ca\x85R.",
    "a storage of what doubles": doubling() + b"h\x3cQ.",
    "a storage whose key doubles": b"(" + text("storage") + doubling() + b"h\x3ctQ.",
    "pairs whose key doubles": doubling() + name("collections", "OrderedDict") + b"]h\x3cK\x01\x86a\x85R.",
    "a memo of 8 GB": b"Nr\xff\xff\xff\x1f.",
    "keys of one hash": b"}(" + b"".join(number(i * ((1 << 61) - 1)) + b"N" for i in range(4)) + b"u.",
    "a long integer as key": b"}\x8b" + (100_000).to_bytes(4, "little") + b"\x7f" * 100_000 + b"Ns.",
    "text encoded again and again": text("a" * 100_000)
    + b"q\x00"
    + name("_codecs", "encode")
    + b"q\x01"
    + (b"h\x01h\x00" + text("latin1") + b"\x86R") * 1000
    + b".",
    "a tensor without storage": name("torch._utils", "_rebuild_tensor_v2") + b"K\x01K\x02K\x03\x87R.",
    "an extension": b"\x82\x01.",
    "cut short": b"}(",
    "no mark": b"u.",
    "nothing": b"",
}


def write(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, copies: int = 1) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for i in range(copies):
            file.writestr(f"archive{i or ''}/data.pkl", START + pickled)
        file.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("form", ["zip", "plain"])
@pytest.mark.parametrize("kind", PICKLES)
def test_one_line_at_once(kind: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    if form == "zip":
        write(path, PICKLES[kind])
    else:
        path.write_bytes(START + PICKLES[kind])
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        load_torch(path)
    assert time.process_time() - started < 2
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_zip_files_that_torch_never_writes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compressed zip"):
        load_torch(write(tmp_path / "a.pth", b"N" + b"0" * 50_000_000, zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match=r"2 data\.pkl in it"):
        load_torch(write(tmp_path / "b.pth", b"}.", copies=2))


@pytest.mark.parametrize("kind", ["an unknown dtype", "a key that doubles", "arguments of another type"])
def test_a_damaged_newest_checkpoint_is_passed_over(kind: str, tmp_path: Path) -> None:
    content = {"model": {}, "iteration": 3, "trainer": {}, OWN_KEY: {}}
    save_torch(content, tmp_path / "model_0000003.pth")
    write(tmp_path / "model_0000007.pth", PICKLES[kind])
    (tmp_path / "last_checkpoint").write_text("model_0000007.pth")
    latest = load_latest(tmp_path)
    assert latest is not None
    assert latest[0] == "model_0000003.pth"


@pytest.mark.parametrize("new", [True, False])
def test_what_runs_save_is_read(new: bool, tmp_path: Path) -> None:
    """Random states, optimizers, tuples, sets and integers as keys."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": random.getstate(),
        "numpy": np.random.RandomState(0).get_state(),
        "torch": torch.get_rng_state(),
        "args": argparse.Namespace(lr=0.1, schedule=[1, 2]),
        "keys": {(1, "a"): 2, 3: 4, -1: 5, 1.5: 6, None: 7, True: 8},
        "ordered": collections.OrderedDict(a=1),
        "set": {1, 2},
        "bytes": b"abc" * 1000,
        "large": 1 << 200,
    }
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=new)
    read = load_torch(tmp_path / "c.pth")
    assert read.keys() == content.keys()
    for key in ("random", "keys", "ordered", "set", "bytes", "large", "args"):
        assert read[key] == content[key]
    assert read["numpy"][1].tolist() == content["numpy"][1].tolist()  # type: ignore[index]


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    write(tmp_path / "c.pth", name("posix", "system") + text(f"touch {mark}") + b"\x85R.")
    with pytest.raises(UserError, match=r"posix\.system, which could run code"):
        load_torch(tmp_path / "c.pth")
    assert os.listdir(tmp_path) == ["c.pth"]
