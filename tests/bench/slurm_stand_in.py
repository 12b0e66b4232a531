"""What sbatch, srun, sacct and scancel do, as far as submitit needs it: jobs are processes, STAND_IN their folder.

Installed under each of these names by ``test_clusters_for_real``; ``slurmd`` is the part that watches over one job.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ.get("STAND_IN", "."))


def sbatch(file: str) -> None:
    number = 4000 + len(list(HOME.glob("*.sh")))
    text = Path(file).read_text()
    (HOME / f"{number}.sh").write_text(text)
    array = re.search(r"^#SBATCH --array=0-(\d+)", text, re.MULTILINE)
    for task in range(int(array[1]) + 1) if array else [None]:
        environment = {**os.environ, "SLURM_JOB_ID": str(number), "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
        if task is not None:
            environment |= {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
        subprocess.Popen(
            [HOME / "slurmd", str(number) if task is None else f"{number}_{task}"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    sys.stdout.write(f"Submitted batch job {number}\n")


def slurmd(job: str) -> None:
    state = HOME / f"{job}.state"
    state.write_text(f"RUNNING {os.getpid()}")
    code = subprocess.call(["bash", HOME / f"{job.partition('_')[0]}.sh"])
    state.write_text("COMPLETED" if code == 0 else "FAILED")


def srun(*arguments: str) -> None:
    command = list(arguments)
    names = {"%j": "SLURM_JOB_ID", "%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%t": "SLURM_PROCID"}
    while command[0].startswith("--"):
        option = command.pop(0)
        if option in ("--output", "--error"):
            path = command.pop(0)
            for short, variable in names.items():
                path = path.replace(short, os.environ.get(variable, ""))
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1 if option == "--output" else 2)
    os.execvp(command[0], command)


def sacct(*_: str) -> None:
    sys.stdout.write("JobID|State|NodeList\n")
    for path in HOME.glob("*.state"):
        sys.stdout.write(f"{path.stem}|{path.read_text().split()[0]}|node\n")


def scancel(job: str) -> None:
    state = HOME / f"{job}.state"
    _, *process = state.read_text().split()
    if process:
        os.killpg(int(process[0]), signal.SIGKILL)
    state.write_text("CANCELLED")


if __name__ == "__main__":
    {each.__name__: each for each in (sbatch, slurmd, srun, sacct, scancel)}[Path(sys.argv[0]).name](*sys.argv[1:])
