"""The notebook of the docs: its cells run, and what it shows was printed by them."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def cells(repo):
    notebook = json.loads((repo / "docs" / "tour.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def stored_text(cells):
    return "".join("".join(output["text"]) for cell in cells for output in cell["outputs"])


def test_outputs_are_stored_and_name_no_machine(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} == {"stream"}
    text = stored_text(cells)
    assert "100   of 100" in text  # every tensor of the backbone was set
    assert "wrote runs/gap.csv" in text
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "Traceback"))


@pytest.mark.slow
def test_the_cells_run(cells, repo, tmp_path):
    code = "\n".join("".join(cell["source"]) for cell in cells)
    env = {**os.environ, "PYTHONPATH": str(repo), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    # the sentences of the log carry times and the numbers the processor's rounding: what the table names is the same
    table = [line.split()[:2] for line in "".join(stored_text(cells[-1:])).splitlines()]
    assert [line.split()[:2] for line in done.stdout.splitlines()[-len(table) :]] == table
