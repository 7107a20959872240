"""The GPU check rehearsed on a CPU: every section by the code that a GPU will run, and what it says when one cannot."""

import json

import pytest

REHEARSAL = ["benchmarks/gpu_check.py", "--device", "cpu", "--tiny"]


def rehearse(run_cli, out, *options, check=0):
    run_cli([*REHEARSAL, "--out", out, *options], check=check)
    assert (out / "gpu_check.md").read_text().startswith("# GPU check")
    record = json.loads((out / "gpu_check.json").read_text())
    assert record["provenance"]["hardware"]["cores"] >= 1
    return record["sections"]


def test_detections_and_a_missing_archive_are_reported(run_cli, tmp_path):
    """In one process: what the device computes, and a section that cannot run."""
    options = ["--together", "--data", tmp_path, "--sections", "environment", "detectors", "cifar10"]
    sections = rehearse(run_cli, tmp_path / "out", *options)
    assert {name: one["status"] for name, one in sections.items()} == {
        "environment": "passed", "detectors": "passed", "cifar10": "skipped"}  # fmt: skip
    assert sections["detectors"]["figures"]["r18: detections on a CPU"] > 0
    assert sections["detectors"]["figures"]["r18"]["float32"]["training step"]["ms"] > 0
    assert str(tmp_path / "cifar10.tar.gz") in sections["cifar10"]["reason"]


def test_without_time_every_section_is_named(run_cli, tmp_path):
    sections = rehearse(run_cli, tmp_path, "--seconds", "1")
    assert len(sections) == 8
    assert {one["status"] for one in sections.values()} == {"skipped"}


def test_a_section_that_hangs_is_ended_and_the_next_begins(run_cli, tmp_path):
    """Importing torch alone takes longer than this limit leaves."""
    sections = rehearse(run_cli, tmp_path, "--seconds", "7", "--sections", "resume", "environment", check=1)
    assert sections["resume"]["status"] == "failed"
    assert sections["environment"]["status"] in ("passed", "skipped", "failed")


def test_a_broken_package_fails_its_section_only(run_cli, tmp_path):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "fvcore.py").write_text("raise ImportError('built for another Python')")
    env = {"PYTHONPATH": str(tmp_path / "packages")}
    options = ["--together", "--out", tmp_path / "out", "--sections", "detectors", "environment"]
    run_cli([*REHEARSAL, *options], env=env, check=1)
    sections = json.loads((tmp_path / "out" / "gpu_check.json").read_text())["sections"]
    assert sections["detectors"]["status"] == "failed"
    assert "built for another Python" in sections["detectors"]["reason"]
    assert sections["environment"]["status"] == "passed"


def test_no_gpu_is_one_line(run_cli, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run_cli(["benchmarks/gpu_check.py", "--out", tmp_path], check=2)
    assert done.stderr.count("\n") == 1
    assert "--device cpu --tiny" in done.stderr


@pytest.mark.slow
def test_every_section_in_a_process_of_its_own(run_cli, tmp_path):
    options = ["--data", tmp_path, "--seconds", "1800"]
    sections = rehearse(run_cli, tmp_path / "out", *options)
    statuses = {name: one["status"] for name, one in sections.items()}
    assert statuses.pop("cifar10") == "skipped"
    assert statuses.pop("tests") in ("passed", "skipped")
    assert set(statuses.values()) == {"passed"}
    figures = sections["resume"]["figures"]
    assert figures["pretraining"]["resumed run, relative difference"] == 0
    assert figures["fine-tuning"]["resumed run, relative difference"] == 0
    assert sections["steps"]["figures"]["update, ours against the official step"] < 1e-3
    assert sections["processes"]["figures"]["gathered rows"] == [0, 0, 1, 1]
