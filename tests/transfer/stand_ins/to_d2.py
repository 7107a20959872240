"""Stands for convert/to_d2.py: writes a backbone and its sidecar, and refuses a checkpoint that says "broken"."""

import hashlib
import json
import os
import pathlib
import sys


def sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


source, target = map(pathlib.Path, sys.argv[1:3])
if b"broken" in source.read_bytes():
    print("error: checkpoint is an HTML page", file=sys.stderr)
    sys.exit(2)
target.parent.mkdir(parents=True, exist_ok=True)
partial = target.with_name(f".{target.name}.partial")
partial.write_bytes(b"backbone from " + source.read_bytes())
os.replace(partial, target)  # atomically, as the program does
sidecar = {
    "schema": 1,
    "source": {"file": str(source), "sha256": sha256(source)},
    "files": {target.name: sha256(target)},
}
partial.write_text(json.dumps(sidecar))
os.replace(partial, target.with_suffix(".json"))
