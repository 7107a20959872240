"""Opening a folder of many images, against torchvision's ImageFolder: python benchmarks/listing.py [--images 640000]

Makes empty files in 1,000 class folders, as many as ImageNet has, and opens them in turn with every reader, each time
in a process of its own. Printed are seconds of CPU time without the imports and their ratio to ImageFolder's in the
same round, the same by the clock, as medians with the range, and the most memory that was added to that of the
imports. ImageFolder only lists the files; this project makes the fingerprint that a checkpoint records as well.
--whole also times the fingerprint of all files, which is made where a checkpoint of an earlier version is resumed.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # run as a script: import from the repository, not from this folder
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import statistics
import subprocess
import tempfile
from pathlib import Path

from runtime.errors import run_entry
from runtime.repository import REPOSITORY

CLASSES = 1000
IMPORTS = "from torchvision.datasets import ImageFolder\nfrom pretrain.images import open_images"
READERS = {
    "torchvision ImageFolder": "images = ImageFolder({folder!r})",
    "this project, labels": "images = open_images({folder!r}, labels=True)",
    "this project, no labels": "images = open_images({folder!r}, labels=False)",
    "this project, a list": "images = open_images({folder!r} + '.txt', labels=True)",
}
WHOLE = {"this project, all sizes": "images = open_images({folder!r}, labels=True); images.whole_fingerprints()"}
TIMED = """
import resource, sys, time
sys.path.insert(0, {repository!r})
{imports}
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cpu, wall = time.process_time(), time.perf_counter()
{code}
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
assert len(images) == {count}
print(cpu, wall, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 2**10)
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=640_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="also time the fingerprint of all files")
    return parser.parse_args()


def make_files(folder: Path, images: int) -> None:
    """``images`` empty files named as ImageNet's, and a list of them with their classes beside the folder."""
    with open(f"{folder}.txt", "w") as lines:
        for number in range(CLASSES):
            top = folder / f"n{number:08d}"
            top.mkdir(parents=True)
            for image in range(number * images // CLASSES, (number + 1) * images // CLASSES):
                name = f"{top.name}_{image * 37 % 100_003}_{image}.JPEG"
                os.close(os.open(top / name, os.O_CREAT | os.O_WRONLY))
                lines.write(f"{folder.name}/{top.name}/{name}\t{number}\n")


def measure(code: str, folder: Path, count: int) -> tuple[float, float, float]:
    """(CPU seconds, seconds by the clock, MiB) of one process that runs ``code``."""
    script = TIMED.format(
        repository=str(REPOSITORY), imports=IMPORTS, code=code.format(folder=str(folder)), count=count
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    cpu, wall, mib = map(float, done.stdout.split())
    return cpu, wall, mib


def main() -> int:
    """Print the table."""
    args = parse()
    from runtime.provenance import hardware

    print(hardware())
    readers = READERS | (WHOLE if args.whole else {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        make_files(folder, args.images)
        print(f"{args.images} files, {CLASSES} folders; median of {args.repeat} runs in turn, and range")
        rows = [{reader: measure(code, folder, args.images) for reader, code in readers.items()}
                for _ in range(args.repeat)]  # fmt: skip
    base = next(iter(readers))
    for reader in readers:
        cpu, wall, mib = zip(*(row[reader] for row in rows))
        by_cpu = tuple(row[reader][0] / row[base][0] for row in rows)
        by_clock = tuple(row[reader][1] / row[base][1] for row in rows)
        print(f"{reader:24s} {spread(cpu)} s, x{spread(by_cpu)}   clock {spread(wall)} s, x{spread(by_clock)}   "
              f"{max(mib):.0f} MiB")  # fmt: skip
    return 0


def spread(values: tuple[float, ...]) -> str:
    """Median and range as text."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    run_entry(main)
