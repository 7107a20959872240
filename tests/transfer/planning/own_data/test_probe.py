"""The probe ends with the command that started it, and says why it failed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from runtime.errors import UserError
from transfer.planning.launchers import Launcher
from transfer.planning.own_data.probe import probe

TRAINED = """
import json, pathlib, sys, time
folder = next((word for word in sys.argv if word.endswith("run")), None)
if folder is None:
    sys.exit()  # the split
{work}
pathlib.Path(folder).mkdir(parents=True)
pathlib.Path(folder, "result.json").write_text(json.dumps(dict(
    seconds_per_iteration=0.01, seconds=dict(train=0.2, evaluate=0.1), datasets=dict(test=[dict(images=4)]),
    peak_memory_mb=100)))
"""
WAIT = "import os, pathlib, time; pathlib.Path('child').write_text(str(os.getpid())); time.sleep(60)"


def start(monkeypatch, code, folder):
    monkeypatch.setattr(Launcher, "command", lambda *args: [sys.executable, "-c", code])
    return probe("own_R18_FPN.yaml", {}, ("voc:a",), ("voc:b",), 100, folder)


@pytest.mark.parametrize(
    ("work", "held_up"),
    [("time.sleep(3)", True), ("end = time.process_time() + 1\nwhile time.process_time() < end: pass", False)],
)
def test_a_probe_that_waits_is_said_to_have_been_held_up(tmp_path, monkeypatch, work, held_up):
    """By its CPU time; ``cores`` of a busy child depends on the machine, so that only its CPU seconds are checked."""
    (tmp_path / "probe" / "test").mkdir(parents=True)
    monkeypatch.setattr("transfer.planning.own_data.probe.split_names", lambda *args: ("DATASETS.TEST", ("voc:c",)))
    began = time.perf_counter()
    monkeypatch.setattr(
        Launcher,
        "command",
        lambda self, name, words, folder: [sys.executable, "-c", TRAINED.format(work=work), *words],
    )
    pace = probe("own_R18_FPN.yaml", {}, ("voc:a",), ("voc:b",), 100, tmp_path / "probe")
    assert bool(pace.held_up()) == (pace.cores < 0.5)
    if held_up:
        assert pace.cores < 0.5
        assert "of a core: other work, or slow storage, held it up" in pace.held_up()
    else:
        assert pace.cores * (time.perf_counter() - began) > 1.0


def test_a_signal_ends_the_probe_and_its_child(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def stop_when_it_runs() -> None:
        while not (tmp_path / "child").is_file():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_it_runs, daemon=True).start()
    with pytest.raises(SystemExit) as caught:
        start(monkeypatch, WAIT, tmp_path / "probe")
    assert caught.value.code == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "child").read_text()), 0)


def test_a_failure_names_reason_and_log(tmp_path, monkeypatch):
    message = r"a training of 20 steps failed: no room \(log .*split\.log\)"
    with pytest.raises(UserError, match=message):
        start(monkeypatch, "import sys; print('error: no room'); sys.exit(2)", tmp_path / "probe")
    assert (tmp_path / "probe" / "split.log").is_file()
