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

WAIT = "import os, pathlib, time; pathlib.Path('child').write_text(str(os.getpid())); time.sleep(60)"


def start(monkeypatch, code, folder):
    monkeypatch.setattr(Launcher, "command", lambda *args: [sys.executable, "-c", code])
    return probe("own_R18_FPN.yaml", {}, ("voc:a",), ("voc:b",), 100, folder)


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
