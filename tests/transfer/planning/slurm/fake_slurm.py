"""A stand-in for Slurm's commands on one machine: which one it is says the name it is called by.

Jobs run at once, in the background; ``scontrol requeue`` starts one again under the same id. State: $FAKE_SLURM/ID.*.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(os.environ["FAKE_SLURM"])


def sbatch(args: list[str]) -> int:
    script = Path(args[-1]).read_text()
    if "partition=nope" in script:
        print("sbatch: error: Batch job submission failed: Invalid partition name specified", file=sys.stderr)
        return 1
    job = str(4242 + len(list(ROOT.glob("*.sh"))))
    (ROOT / f"{job}.sh").write_text(script)
    (ROOT / f"{job}.state").write_text("PENDING" if (ROOT / "full").exists() else "RUNNING")
    subprocess.Popen(
        [sys.executable, __file__, "controller", job],
        stdout=subprocess.DEVNULL,  # a pipe of sbatch left open would keep its caller waiting for more output
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    print(job if "--parsable" in args else f"Submitted batch job {job}")
    return 0


def controller(args: list[str]) -> int:
    job, restarts = args[0], 0
    while (ROOT / f"{job}.state").exists() and (ROOT / f"{job}.state").read_text() == "PENDING":
        time.sleep(0.05)
    while (ROOT / f"{job}.state").exists():
        env = {**os.environ, "SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restarts)}
        output = next(line for line in (ROOT / f"{job}.sh").read_text().splitlines() if "--output=" in line)
        with open(output.split("=", 1)[1].strip("'").replace("%j", job), "a") as sink:
            subprocess.run(["bash", str(ROOT / f"{job}.sh")], env=env, stdout=sink, stderr=sink, check=False)
        if not (ROOT / f"{job}.requeue").exists():
            (ROOT / f"{job}.state").unlink(missing_ok=True)
            break
        (ROOT / f"{job}.requeue").unlink()
        restarts += 1
    return 0


def srun(args: list[str]) -> int:
    while args[0].startswith("--"):
        args = args[2:] if args[0] == "--output" else args[1:]
    (ROOT / f"{os.environ['SLURM_JOB_ID']}.pid").write_text(str(os.getpid()))
    os.execvp(args[0], args)


def squeue(args: list[str]) -> int:
    state = ROOT / f"{args[args.index('--jobs') + 1]}.state"
    if not state.exists():
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    print(state.read_text())
    return 0


def scancel(args: list[str]) -> int:
    job, pid = args[-1], ROOT / f"{args[-1]}.pid"
    if args[0].startswith("--signal="):
        os.kill(int(pid.read_text()), getattr(signal, "SIG" + args[0].removeprefix("--signal=")))
        return 0
    (ROOT / f"{job}.state").unlink()
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)
    return 0


def scontrol(args: list[str]) -> int:
    (ROOT / f"{args[-1]}.requeue").touch()
    return 0


def sacct(args: list[str]) -> int:
    return 1  # many clusters keep no accounts


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    arguments = sys.argv[1:]
    if arguments[:1] == ["controller"]:
        name, *arguments = arguments
    sys.exit(globals()[name](arguments))
