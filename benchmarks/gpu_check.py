"""One command for a machine with a GPU: does everything work there, and how fast is it?

    make gpu-check                                          # or: python benchmarks/gpu_check.py
    make gpu-check ARGS="--wheels DIR --data DIR"           # packages that the machine lacks, and real images
    python benchmarks/gpu_check.py --device cpu --tiny      # the rehearsal: the same code without a GPU

It needs torch 2.6 or newer with torchvision, and no network. What needs a missing package is left out and named.
Every section has a process of its own and a limit of time; one that fails or hangs is reported, and the next begins.
All together they end within --seconds. Writes gpu_check.json and gpu_check.md, anew after every section.
Exit code: 0, or 1 where a section failed.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import contextlib
import importlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.page import page
from runtime.arguments import positive
from runtime.atomic import write_json, write_text
from runtime.command_line import CommandParser
from runtime.errors import UserError, run_entry
from runtime.provenance import provenance
from runtime.repository import REPOSITORY


class Section(NamedTuple):
    """Where its function is, and the seconds that it is sure to have. What one section leaves, the next may use."""

    function: str
    seconds: float


SECTIONS = {
    "environment": Section("benchmarks.gpu.environment:environment", 20),
    "tests": Section("benchmarks.gpu.environment:marked_tests", 40),
    "steps": Section("benchmarks.gpu.pretraining:steps", 80),
    "detectors": Section("benchmarks.gpu.detectors:detectors", 110),
    "cache": Section("benchmarks.gpu.pretraining:cache", 60),
    "resume": Section("benchmarks.gpu.runs:resume", 75),
    "processes": Section("benchmarks.gpu.runs:processes", 25),
    "cifar10": Section("benchmarks.gpu.runs:cifar", 60),
}
MARGIN = 3.0  # seconds in which a section that is over its limit is ended


def parse() -> argparse.Namespace:
    """The command line."""
    parser = CommandParser(description=__doc__)
    shared = os.environ.get("GAP_SHARED_DATA", str(REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="the smallest sizes: a rehearsal of the code, no measurement"
    )
    parser.add_argument("--seconds", type=positive, default=475, help="limit of the whole check (475)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME",
                        help=f"some of {', '.join(SECTIONS)}")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help="folder to write (runs/gpu_check)")
    parser.add_argument("--data", type=Path, default=Path(shared), help="folder of cifar10.tar.gz (GAP_SHARED_DATA)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use packages from, without installing them")
    parser.add_argument("--together", action="store_true", help="all in this process: faster, but nothing is isolated")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the section that this process is for
    parser.add_argument("--limit", type=float, default=1e9, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_section(args: argparse.Namespace, name: str, limit: float) -> None:
    """Run one section in this process; its result.json says how it ended."""
    from benchmarks.gpu.section import Check, outcome

    module, function = SECTIONS[name].function.split(":")
    folder = args.out / "sections" / name
    ends = time.monotonic() + limit
    check = Check(name, args.device, args.tiny, args.together, folder.resolve(), args.data.resolve(), ends)
    outcome(check, lambda given: getattr(importlib.import_module(module), function)(given))


def start_section(args: argparse.Namespace, name: str, limit: float) -> str:
    """Run one section in a process of its own for ``limit`` seconds; returns why it left no result, or nothing."""
    argv = [sys.executable, str(Path(__file__).resolve()), "--one", name, "--limit", str(limit - MARGIN)]
    argv += ["--device", args.device, "--out", str(args.out), "--data", str(args.data)]
    argv += ["--tiny"] if args.tiny else []
    with open(args.out / "sections" / name / "output.txt", "wb") as output:
        # a group of its own, so that whatever the section started ends with it
        process = subprocess.Popen(argv, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"not finished after {limit:.0f} s: ended, with the figures it had"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code == 0:
        return ""
    if code < 0:
        return f"killed by signal {-code}"
    lines = (args.out / "sections" / name / "output.txt").read_text(errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'no output'}"


def result_of(args: argparse.Namespace, name: str, limit: float) -> dict[str, Any]:
    """Run one section within ``limit`` seconds and return its record, whatever happens in it."""
    folder = args.out / "sections" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()
    reason = ""
    if args.together:
        run_section(args, name, limit)
    else:
        reason = start_section(args, name, limit)
    file = folder / "result.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"figures": {}, "problems": []}
    if found.get("status") not in ("passed", "failed", "skipped"):
        found.update(status="failed", reason=reason or "the section ended without a result")
    return {**found, "seconds": time.monotonic() - began}


def check_machine(args: argparse.Namespace) -> None:
    """Raise UserError where the check cannot begin."""
    try:
        import torch
        import torchvision  # noqa: F401
    except ImportError as error:
        raise UserError(f"the check needs torch and torchvision, and {error}; use the Python that has them") from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 6):
        raise UserError(f"the check needs torch 2.6 or newer, this is {torch.__version__}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch finds no GPU here; to rehearse the check without one, add --device cpu --tiny")


def main() -> int:
    """Run the sections one after the other and write the page after each."""
    args = parse()
    args.out = args.out.resolve()
    if args.wheels:
        from benchmarks.gpu.environment import unpack_wheels

        packages = args.out / "packages"
        unpack_wheels(args.wheels, packages)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH", "")]))
        sys.path.insert(1, str(packages))
    if args.one:
        run_section(args, args.one, args.limit)
        return 0
    check_machine(args)
    record: dict[str, Any] = {"device": args.device, "tiny": args.tiny, "interrupted": True, "seconds": 0.0}
    record |= {"provenance": provenance(), "sections": {}}
    began = time.monotonic()
    for place, name in enumerate(args.sections):
        left = args.seconds - (time.monotonic() - began)
        limit = left - sum(SECTIONS[later].seconds for later in args.sections[place + 1 :])
        limit = min(left, max(limit, SECTIONS[name].seconds))
        if limit < 2 * MARGIN:
            section = {"status": "skipped", "reason": "no time left", "seconds": 0.0, "figures": {}, "problems": []}
        else:
            section = result_of(args, name, limit)
        record["sections"][name] = section
        record["seconds"] = time.monotonic() - began
        record["interrupted"] = place + 1 < len(args.sections)
        write_json(args.out / "gpu_check.json", record)
        write_text(args.out / "gpu_check.md", page(record))
        print(f"{name}: {section['status']} in {section['seconds']:.0f} s {section['reason']}".rstrip(), flush=True)
    print(f"wrote {args.out / 'gpu_check.json'} and {args.out / 'gpu_check.md'}")
    return int(any(section["status"] == "failed" for section in record["sections"].values()))


if __name__ == "__main__":
    run_entry(main)
