"""Reads COUNT mutated files of one KIND: ``python -m tests.runtime.programs.fuzz KIND COUNT FOLDER``.

Every case must be read or refused with a UserError, within two seconds of processor time and one gigabyte beyond what
the imports take. The kernel ends the process for a case that takes longer, even inside C code.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import resource
import signal
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convert.conversion import convert
from runtime.errors import UserError
from runtime.repository import REPOSITORY
from runtime.torch_files import load_torch, save_torch
from tests.runtime.programs.fuzz_cityscapes import CITYSCAPES_KINDS
from tests.runtime.programs.fuzz_data import DATA_KINDS, DataKind
from transfer.config import load_config
from transfer.engines.training.proposals import read_proposals
from transfer.planning.plan import load_plan
from transfer.planning.stages import plan_stages

SECONDS, MEMORY = 2.0, 1 << 30

NAMES = "os\nsystem builtins\ngetattr builtins\nset builtins\nbytearray collections\nOrderedDict torch\nSize a.b\nc"
NAMES += " torch._utils\n_rebuild_tensor_v2 torch\nFloatStorage numpy.core.multiarray\n_reconstruct numpy\ndtype"
NAMES += " numpy\nndarray _codecs\nencode collections\ndefaultdict torch._utils\n_rebuild_parameter"
OPCODES = [f"c{name}\n".encode() for name in NAMES.split(" ")]
OPCODES += [bytes([code]) for code in b"(.0122NabdeluotsRQ}])\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"]
OPCODES += [b"K\x01", b"M\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x0f", b"I1\n", b"F1.5\n"]
OPCODES += [b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"r\xff\xff\xff\x1f", b"Np9999999\n", b"L" + b"9" * 50 + b"L\n"]
OPCODES += [b"X\x01\0\0\0a", b"\x8c\x07storage", b"\x8c\x0cconv1.weight", b"C\x04abcd", b"S'x'\n"]
OPCODES += [b"\x95\xff\0\0\0\0\0\0\0", b"\x8e" + b"\xff" * 8]
TEXTS = ["_BASE_", "MODEL", "SOLVER.STEPS", "SEED", "inits", "configs", "prepare", "argv", "weights", "overrides"]
TEXTS += ["lr", "seeds", "true", "null", "~", "é"]
TEXTS += [*":-[]{}&*#!|>%@`,?\n\t\0 '\"", "&a ", "*a", "<<: ", "!!int ", "!!python/name:os.system ", "- - - ", "\n  "]
TEXTS += [".inf", ".nan", "1e999", "-1", "0", "9" * 200, "1:" * 50, "2024-13-45", "x" * 5000, "\ufeff"]


def mutated(base: bytes, pieces: list[bytes]) -> st.SearchStrategy[bytes]:
    """``base`` with up to eight places overwritten, cut out or added to."""
    edit = st.tuples(
        st.integers(0, len(base)), st.integers(0, 40), st.one_of(st.binary(max_size=8), st.sampled_from(pieces))
    )

    def apply(edits: list[tuple[int, int, bytes]]) -> bytes:
        content = base
        for place, length, new in edits:
            content = content[:place] + new + content[place + length :]
        return content

    return st.lists(edit, max_size=8).map(apply)


def opcodes() -> st.SearchStrategy[bytes]:
    """A pickle of random opcodes."""
    return st.lists(st.sampled_from(OPCODES), max_size=60).map(lambda parts: b"\x80\x02" + b"".join(parts) + b".")


def pickles(folder: Path) -> st.SearchStrategy[bytes]:
    """Random opcodes, and a real pickle mutated."""
    arrays = {"conv1.weight": np.zeros((2, 3, 7, 7), np.float32), "layer1.0.conv1.weight": np.ones(3, np.float32)}
    return st.one_of(opcodes(), *(mutated(pickle.dumps(arrays, protocol), OPCODES) for protocol in (2, 4, 5)))


def zips(folder: Path) -> st.SearchStrategy[bytes]:
    """A torch.save file mutated, and a sound zip around random opcodes; the format of torch < 1.6 too."""
    base = folder / "base.pth"
    content = {"model": {"conv1.weight": torch.zeros(2, 3, 7, 7), "s": torch.ones(3)}, "args": {"lr": 0.1}}
    save_torch(content, base)
    current = base.read_bytes()
    torch.save(content, base, _use_new_zipfile_serialization=False)

    def wrapped(pickled: bytes) -> bytes:
        with zipfile.ZipFile(base, "w") as file:
            file.writestr("archive/data.pkl", pickled)
            file.writestr("archive/data/0", bytes(16))
        return base.read_bytes()

    return st.one_of(mutated(current, OPCODES), mutated(base.read_bytes(), OPCODES), opcodes().map(wrapped))


def proposals(folder: Path) -> st.SearchStrategy[bytes]:
    """A file of proposals mutated, one with other values in its places, and random opcodes."""
    boxes, logits = np.tile(np.float32([1, 2, 9, 9]), (3, 1)), np.arange(3, dtype=np.float32)
    base: dict[str, Any] = {"ids": [1, 2], "boxes": [boxes] * 2, "objectness_logits": [logits] * 2, "bbox_mode": 0}
    odd: list[Any] = [
        None,
        -1,
        1 << 70,
        "x",
        [],
        [boxes],
        boxes,
        boxes.astype(">f8"),
        logits.astype(int),
        np.array("x"),
        {},
    ]
    odd += [[np.full((3, 4), np.nan, np.float32)] * 2, [boxes.astype(object)] * 2, np.array([1, 2]), [[1, 2], "a"]]
    places = st.tuples(st.sampled_from(sorted(base)), st.sampled_from(odd))

    def changed(edits: list[tuple[str, Any]]) -> bytes:
        return pickle.dumps({**base, **dict(edits)})

    sound = [pickle.dumps(base, protocol) for protocol in (2, 4, 5)]
    return st.one_of(
        st.lists(places, max_size=3).map(changed), opcodes(), *(mutated(content, OPCODES) for content in sound)
    )


def safetensors(folder: Path) -> st.SearchStrategy[bytes]:
    """Headers of random entries, and a sound file mutated."""
    integers = st.one_of(st.integers(-2, 20), st.integers(-(1 << 70), 1 << 70))
    numbers = st.one_of(integers, st.just(1.5), st.none(), st.text(max_size=2))
    fields = {
        "dtype": st.sampled_from(["F32", "F8_E4M3", "I64", "X", 1]),
        "shape": st.one_of(st.lists(numbers, max_size=5), st.just([1] * 100_000)),
        "data_offsets": st.lists(numbers, max_size=3),
    }
    names = st.sampled_from(["conv1.weight", "a", "__metadata__", ""])
    headers = st.dictionaries(names, st.one_of(st.fixed_dictionaries(fields), numbers), max_size=3)

    def file(header: Any) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + bytes(64)

    sound = file({"conv1.weight": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}})
    return st.one_of(headers.map(file), mutated(sound, [b'"', b"[", b"{", b"9" * 30, b"-", b","]))


def yaml_of(*files: str) -> Callable[[Path], st.SearchStrategy[bytes]]:
    """Mutated YAML of ``files``."""
    pieces = [text.encode() for text in TEXTS]
    return lambda folder: st.one_of(*(mutated((REPOSITORY / file).read_bytes(), pieces) for file in files))


def read_checkpoints(path: Path) -> None:
    """As to_d2.py and --resume do."""
    with contextlib.suppress(UserError):
        convert(path, verify=False)
    load_torch(path)


def with_mutations(data: DataKind) -> tuple[Callable[[Path], st.SearchStrategy[bytes]], str, Callable[[Path], object]]:
    """A kind of ``fuzz_data`` as those here."""
    cases, name, read = data
    return lambda folder: cases(folder, mutated), name, read


KINDS: dict[str, tuple[Callable[[Path], st.SearchStrategy[bytes]], str, Callable[[Path], object]]] = {
    "pickles": (pickles, "c.pkl", read_checkpoints),
    "zips": (zips, "c.pth", read_checkpoints),
    "proposals": (proposals, "p.pkl", lambda path: read_proposals(path, [1, 2])),
    "safetensors": (safetensors, "c.safetensors", lambda path: convert(path, verify=False)),
    "configs": (yaml_of("configs/Base_C4.yaml", "configs/Base_FPN.yaml"), "c.yaml", load_config),
    "plans": (yaml_of("plans/demo.yaml", "plans/lr_search.yaml"), "p.yaml", lambda path: plan_stages(load_plan(path))),
    **{kind: with_mutations(data) for kind, data in {**DATA_KINDS, **CITYSCAPES_KINDS}.items()},
}


def main(kind: str, count: int, folder: Path) -> None:
    """Run the cases; a traceback, or death by signal, is a finding. The last case stays in ``folder``."""
    strategy, name, read = KINDS[kind]
    cases = strategy(folder)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))

    checks = list(HealthCheck)

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=checks)
    @given(cases)
    def case(content: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # the default action of SIGPROF ends the process
        with contextlib.suppress(UserError):
            read(folder / name)
        signal.setitimer(signal.ITIMER_PROF, 0)

    case()
    print(f"{count} {kind}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
