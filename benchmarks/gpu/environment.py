"""Sections of the GPU check: what the machine and its packages are, and the tests marked gpu."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

from benchmarks.gpu.section import Check, Skipped
from runtime.errors import UserError
from runtime.provenance import package_versions
from runtime.repository import REPOSITORY

# module -> what is left out without it
LEFT_OUT = {
    "torchvision": "everything but this section",
    "cv2": "the run from the cache and the resumes",
    "tensorboard": "the run from the cache, the resumes and CIFAR-10",
    "pycocotools": "both detectors and the resumed fine-tuning",
    "fvcore": "both detectors and the resumed fine-tuning",
    "iopath": "both detectors and the resumed fine-tuning (fvcore needs it)",
    "yacs": "both detectors and the resumed fine-tuning (fvcore needs it)",
    "simplejpeg": "nothing: images are decoded by OpenCV, more slowly",
    "pytest": "the tests marked gpu",
    "detectron2": "the comparison of the detectors with Detectron2",
}


def environment(check: Check) -> None:
    """Versions, driver and memory of the GPUs, what is missing and what that leaves out, a product on the device."""
    import torch

    check.note("versions", package_versions())
    check.note("python", sys.version.split()[0])
    check.note("torch built for", f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    missing = [name for name in LEFT_OUT if importlib.util.find_spec(name) is None]
    for name in missing:
        check.note(f"missing: {name}", f"left out: {LEFT_OUT[name]}")
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        check.note(
            f"GPU {index}",
            f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gpu.total_memory / 2**30:.1f} GiB, "
            f"{gpu.multi_processor_count} multiprocessors",
        )
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        check.note("driver, highest clock, power limit", done.stdout.strip() or done.stderr.strip() or "no answer")
    except (OSError, subprocess.TimeoutExpired) as error:
        check.note("driver, highest clock, power limit", f"not known: {error}")
    values = torch.arange(12.0, device=check.device).reshape(3, 4)
    product = (values @ values.T).cpu().tolist()
    check.expect(product[2] == [62.0, 214.0, 366.0], f"3 x 4 product on {check.device}: last row {product[2]}")


def marked_tests(check: Check) -> None:
    """The tests marked gpu, file by file, so that a file that lacks a package does not keep the others from running."""
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("needs pytest")
    files = [
        str(path.relative_to(REPOSITORY))
        for path in sorted((REPOSITORY / "tests").rglob("test_*.py"))
        if re.search(r"\bmark\.gpu\b", path.read_text())
    ]
    report = check.folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "--continue-on-collection-errors"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", *files],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=max(1.0, check.seconds_left()),
    )
    check.note("files", files)
    if not report.exists():
        raise RuntimeError((done.stderr.strip() or done.stdout.strip() or "pytest wrote no report").splitlines()[-1])
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    counts = {"passed": 0, "skipped": 0, "failed": 0}
    for case in cases:
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        skipped = any(child.tag == "skipped" for child in case)
        counts["failed" if bad is not None else "skipped" if skipped else "passed"] += 1
        if bad is not None:
            first = (bad.get("message") or bad.text or "").strip().splitlines() or ["no message"]
            check.expect(False, f"{case.get('classname')}.{case.get('name')}: {first[0][:300]}")
    check.note("tests", counts)
    check.expect(bool(cases), f"pytest found no test (exit code {done.returncode})")
    if check.device == "cuda":
        check.expect(counts["skipped"] == 0, f"{counts['skipped']} tests were skipped on a GPU")
    elif not counts["passed"] and not counts["failed"]:
        raise Skipped(f"the {counts['skipped']} tests marked gpu need a CUDA device")


def unpack_wheels(source: Path, target: Path) -> None:
    """Unpack every wheel of a folder, as far as a package can be used without an installer. UserError for none."""
    wheels = sorted(source.glob("*.whl"))
    if not wheels:
        raise UserError(f"--wheels {source}: there is no .whl file in it")
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as content:
                content.extractall(target)
        except zipfile.BadZipFile as error:
            raise UserError(f"--wheels: {wheel} is not a wheel: {error}") from error
