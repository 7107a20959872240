"""A plan whose runner is killed at random moments: the same runs, records and table as one that was never killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import lives

SCRIPT = Path(__file__).parents[1] / "stand_ins" / "measure_gap.py"
OUTPUT = Path("runs/toy")
KILLS = 25
STAGE_SCRIPTS = (b"draw.py", b"main.py", b"to_d2.py", b"train_net.py")


def content(output: Path) -> dict[str, Any]:
    """What two equal plans share: their files without logs, locks, times and the calls of each life."""
    found: dict[str, Any] = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        if not path.is_file() or path.name in ("log.txt", ".lock", "calls.txt", "at"):
            continue
        if path.name == "record.json":
            record = json.loads(path.read_text())
            found[name] = {key: record[key] for key in ("argv", "proof", "status")}
        else:
            found[name] = path.read_bytes() if path.suffix in (".csv", ".tex", ".json", ".tar", ".pkl") else "there"
    return found


def stages_alive(root: Path) -> list[int]:
    """Processes of this plan's stages; raises for any other that outlived its runner."""
    found = lives.naming(str(root))
    commands = [words for pid in found if (words := lives.command_line(pid))]
    assert all(any(script in words for script in STAGE_SCRIPTS) for words in commands), commands
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("plan_file")
def test_25_kills_leave_no_trace(fake_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second kill is of the runner alone: its stages go on, and the next runner waits for them."""
    monkeypatch.setenv("FAKE_STEPS", "4")
    log, words = tmp_path / "log.txt", ["toy_plan.yaml", "--jobs", "2"]
    seconds = lives.whole_life(SCRIPT, words, log)
    expected = content(OUTPUT)
    shutil.rmtree(OUTPUT)
    rng, kills = random.Random(0), 0
    while kills < KILLS:
        alone = bool(kills % 2)
        started = lives.cut_short(SCRIPT, words, log, rng.random() * seconds / 2, group=not alone)
        if started is None:
            assert content(OUTPUT) == expected
            shutil.rmtree(OUTPUT)
            continue
        kills += 1
        stages = stages_alive(fake_repo)
        for pid in [] if alone else stages:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert lives.alive_after(started if alone else [*started, *stages]) == []
    lives.whole_life(SCRIPT, words, log)
    assert content(OUTPUT) == expected
    assert lives.alive_after(stages_alive(fake_repo)) == []
