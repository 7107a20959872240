"""Stands for transfer/train_net.py: takes steps of 20 ms, saves and leaves on a signal, resumes, writes a result.

``record.json`` beside this file is the result that it changes; ``fail_once`` in the output folder makes it fail.
"""

import hashlib
import json
import os
import pathlib
import random
import signal
import sys
import time

arguments = sys.argv[1:]
if "--resume" in arguments[arguments.index("OUTPUT_DIR") :]:
    sys.exit("error: flags go before KEY VALUE options")


def value_after(word: str, default: str = "") -> str:
    return arguments[arguments.index(word) + 1] if word in arguments else default


def write(path: pathlib.Path, text: str) -> None:
    """Atomically, as the program does."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # processes of one job write the same files
    partial.write_text(text)
    os.replace(partial, path)


stopped: list[int] = []
for signum in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(signum, lambda number, frame: stopped.append(number))
output, seed = pathlib.Path(value_after("OUTPUT_DIR")), int(value_after("SEED"))
init, weights = value_after("--init-name"), value_after("--init")
output.mkdir(parents=True, exist_ok=True)
with open(output / "calls.txt", "a") as calls:
    calls.write(" ".join(arguments) + "\n")
write(output / "config.yaml", "SOLVER:\n  MAX_ITER: 20\n")
write(output / "last_checkpoint", "model_0000009.pth")
if (output / "fail_once").exists():
    (output / "fail_once").unlink()
    print("error: loss is not finite at step 7", file=sys.stderr)
    sys.exit(2)

at = output / "at"
first = int(at.read_text()) if "--resume" in arguments and at.exists() else 0
for step in range(first, int(os.environ.get("FAKE_STEPS", "2"))):
    time.sleep(0.02)
    write(at, str(step))
    if stopped:
        sys.exit(128 + stopped[0])

# FAKE_AP: the AP of other initialisations, as JSON
# FAKE_SPREAD: the standard deviation of AP over runs, drawn from initialisation, weights and seed
noise = random.Random(f"{init} {weights} {seed}").gauss(0, float(os.environ.get("FAKE_SPREAD", "0")))
rate = float(value_after("SOLVER.BASE_LR", "0.02"))
known = {"random": 20.0, "supervised": 30.0, **json.loads(os.environ.get("FAKE_AP", "{}"))}
ap = known.get(init, 33.0) + 0.1 * seed - 100 * abs(rate - 0.02) + noise
record = json.loads(pathlib.Path(__file__).with_name("record.json").read_text())
record["seed"] = seed
record["init"]["name"] = init
record["init"]["sha256"] = (
    None if weights in ("random", "supervised") else hashlib.sha256(pathlib.Path(weights).read_bytes()).hexdigest()
)
record["config"]["flat"]["SOLVER.BASE_LR"] = rate
record["metrics"] = {"bbox": {"AP": ap, "AP50": ap + 20, "AP75": ap + 1}}
write(output / "result.json", json.dumps(record))
