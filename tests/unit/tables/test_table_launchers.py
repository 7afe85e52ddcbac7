"""What would be started by python, torchrun and slurm, and what slurm is told."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from summarymixing_modules.cli import main
from summarymixing_modules.tables import slurm_queue
from summarymixing_modules.tables.record import read_record
from summarymixing_modules.training.run.run_lock import FolderLock

MORE = ["--rows", "more"]


def arguments(table: Path, *more: str) -> list[str]:
    folder = table.parent
    data = ["--data", f"speech={folder / 'speech'}", f"more={folder / 'speech'}"]
    return ["tables", "run", str(table), "--results", str(folder / "results"), *data, *more]


def dry(table: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(arguments(table, "--dry-run", *more)) == 0
    assert not (table.parent / "results").exists()
    return capsys.readouterr().out


def test_local_commands(fake_table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = dry(fake_table, capsys, "--rows", "bad", "--", "--after:words=[a, b]", "--debug")
    folder = fake_table.parent
    results = folder / "results/fakes"
    fake = f"{sys.executable} {folder}/fake/train.py {folder}/fake/hparams/fake.yaml"
    assert out == (
        "# shared · words\n"
        f"{fake} --output_folder={results}/shared/words --data_folder={folder}/speech --debug "
        "--ckpt_interval_minutes=15\n"
        "# bad · train\n"
        f"{fake} --output_folder={results}/bad/train --data_folder={folder}/speech "
        f"--start={results}/shared/words --wer=5.1 --fail=True --debug --ckpt_interval_minutes=15\n"
        "# bad · after\n"
        f"{fake} --output_folder={results}/bad/after --data_folder={folder}/speech "
        f"--start={results}/bad/train '--words=[a, b]' --debug --ckpt_interval_minutes=15\n"
    )


def test_runs_of_the_table_are_trusted_and_no_others(
    fake_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_table.write_text(
        fake_table.read_text().replace('start: "{train}"', 'init_from: "{train}"')
    )
    out = dry(fake_table, capsys, "--rows", "bad")
    results = fake_table.parent / "results/fakes"
    assert f"--init_from={results}/bad/train --trust_run=True" in out
    assert out.count("trust_run") == 1
    out = dry(fake_table, capsys, "--rows", "bad", "--", "--after:init_from=/somebody/else")
    assert "--init_from=/somebody/else" in out and "trust_run" not in out


def test_printed_commands_run_as_they_are(
    fake_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = dry(fake_table, capsys, "--rows", "good")
    subprocess.run(["bash", "-e"], input=out, text=True, check=True, capture_output=True)
    assert (fake_table.parent / "results/fakes/good/train/result.json").is_file()


def test_torchrun_keeps_the_batches_of_a_step(
    fake_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 processes x accumulation 2 in the table."""
    out = dry(fake_table, capsys, *MORE, "--launcher", "torchrun", "--gpus", "2")
    assert "-m torch.distributed.run --standalone --nproc_per_node=2 " in out
    assert "--grad_accumulation_factor=4" in out
    out = dry(fake_table, capsys, *MORE, "--launcher", "torchrun", "--gpus", "4")
    assert "grad_accumulation" not in out
    assert "--grad_accumulation_factor=8" in dry(fake_table, capsys, *MORE)
    own = ["--", "--grad_accumulation_factor=1"]
    out = dry(fake_table, capsys, *MORE, "--launcher", "torchrun", "--gpus", "3", *own)
    assert out.count("--grad_accumulation_factor=1") == 1
    assert main(arguments(fake_table, *MORE, "--launcher", "torchrun", "--gpus", "3")) == 1
    assert "is 8 batches in this table, which 3 processes cannot" in capsys.readouterr().err


def test_what_is_for_one_process_gets_one(
    fake_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_table.write_text(fake_table.read_text().replace("processes: 4", "processes: 1"))
    out = dry(fake_table, capsys, *MORE, "--launcher", "torchrun", "--gpus", "8")
    assert "torch.distributed" not in out and "grad_accumulation" not in out
    out = dry(fake_table, capsys, *MORE, "--launcher", "slurm", "--gpus", "8", "--nodes", "2")
    assert "--gpus-per-node=1\n" in out and "--nodes=1\n" in out
    srun = 'srun --cpus-per-task="$SLURM_CPUS_PER_TASK"'
    assert f"\n{srun} {sys.executable} {fake_table.parent}/fake/train.py " in out


def test_slurm_scripts(fake_table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = fake_table.parent / "site.yaml"
    site.write_text("partition: gpu\ntime: 1-0\nsetup: [module load cuda]\noptions: --mem=100G\n")
    options = ["--site", str(site), "--time", "24:00:00", "--gpus", "8", "--nodes", "2"]
    out = dry(fake_table, capsys, "--rows", "good", "--launcher", "slurm", *options)
    for line in (
        "#SBATCH --job-name=good:train",
        f"#SBATCH --output={fake_table.parent}/results/fakes/good/train/table_run.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=48",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@180",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=24:00:00",
        "#SBATCH --mem=100G",
        "module load cuda",
        "trap again USR1",
        'srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 '
        f"{sys.executable} -m torch.distributed.run \\",
        '    --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node=8 \\',
        '    --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d --rdzv_endpoint="$head:$port" \\',
        "wait $!",
    ):
        assert f"{line}\n" in out
    first, second = out.split("# good · train\n")
    assert f"job_0=$(sbatch --parsable {fake_table.parent}" in first
    assert (
        "job_1=$(sbatch --parsable --dependency=afterok:$job_0 --kill-on-invalid-dep=yes /"
        in second
    )
    subprocess.run(["bash", "-n"], input=out, text=True, check=True)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with commands that answer in slurm's words; jobs in ``queued`` are queued.

    A file ``NAME.down`` makes the command NAME fail, with the words in it.
    """
    folder = tmp_path / "cluster"
    folder.mkdir()
    down = 'echo "$@" >> "$0.calls"; [ -e "$0.down" ] && { cat "$0.down" >&2; exit 1; }\n'
    commands = {
        "sbatch": 'echo "$((100 + $(wc -l < "$0.calls")));here"',
        "squeue": """\
[ "$4" = --clusters=here ] && echo "CLUSTER: here"
case "$(cat "$(dirname "$0")/queued")" in
    *"${2#--jobs=} gone"*) ;;
    *"${2#--jobs=}"*) echo RUNNING;;
    *) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1;;
esac""",
        "scontrol": "true",
        "srun": 'shift; "$@"',
    }
    for name, script in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{down}{script}\n")
        (folder / name).chmod(0o755)
    (folder / "queued").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(slurm_queue, "PAUSE_SECONDS", 0.0)
    return folder


def test_jobs_are_submitted_once_and_after_what_they_need(
    fake_table: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(fake_table, "--rows", "good", "--launcher", "slurm", "--gpus", "2")
    assert main(command) == 0
    assert "good · train: submitted: 102" in capsys.readouterr().out
    results = fake_table.parent / "results/fakes"
    assert (cluster / "sbatch.calls").read_text().splitlines() == [
        f"--parsable {results}/shared/words/job.sh",
        "--parsable --dependency=afterok:101 --kill-on-invalid-dep=yes "
        f"{results}/good/train/job.sh",
    ]
    record = read_record(results / "good/train")
    assert record is not None and (record.status, record.job) == ("submitted", "102;here")
    (cluster / "queued").write_text("101\n102\n")
    assert main(command) == 0
    assert "good · train: submitted before: 102" in capsys.readouterr().out
    # With one process its batches would be others.
    assert main(arguments(fake_table, "--rows", "good")) == 1
    assert "processes: 2, now 1" in capsys.readouterr().err
    # 101 has finished, 102 is lost: it is in slurm's memory still, but not in its queue.
    (cluster / "queued").write_text("102 gone")
    (results / "shared/words/result.json").write_text("{}")
    assert main(command) == 0
    assert (cluster / "sbatch.calls").read_text().splitlines()[2:] == [
        f"--parsable {results}/good/train/job.sh"
    ]


def test_what_is_in_the_queue_is_not_trained_here(
    fake_table: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(fake_table, *MORE, "--launcher", "slurm", "--gpus", "4")) == 0
    (cluster / "queued").write_text("101\n")
    assert main(arguments(fake_table, *MORE)) == 0
    assert "more · train: submitted before: 101" in capsys.readouterr().out
    assert not (fake_table.parent / "results/fakes/more/train/steps").exists()


@pytest.mark.parametrize("launcher", [["slurm", "--gpus=4"], ["local"]])
def test_no_answer_is_not_an_ended_job(
    launcher: list[str], fake_table: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is submitted or trained twice because slurm's controller is down."""
    more = arguments(fake_table, *MORE)
    assert main([*more, "--launcher", "slurm", "--gpus=4"]) == 0
    down = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    (cluster / "squeue.down").write_text(down)
    assert main([*more, "--launcher", *launcher]) == 1
    out = capsys.readouterr().out
    assert "more · train: unknown: slurm does not tell whether job 101;here is still there" in out
    assert down in out and "--forget-jobs" in out
    assert len((cluster / "squeue.calls").read_text().splitlines()) == slurm_queue.ATTEMPTS
    (cluster / "squeue").unlink()
    assert main([*more, "--launcher", *launcher]) == 1
    assert "squeue is not on PATH" in capsys.readouterr().out
    assert len((cluster / "sbatch.calls").read_text().splitlines()) == 1
    assert not (fake_table.parent / "results/fakes/more/train/steps").exists()
    assert main([*more, "--launcher", *launcher, "--forget-jobs"]) == 0


def test_a_job_that_trains_holds_the_folder(
    fake_table: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported at once, not waited for."""
    command = arguments(fake_table, *MORE, "--launcher", "slurm", "--gpus=4")
    assert main(command) == 0
    (cluster / "queued").write_text("101")
    with FolderLock(fake_table.parent / "results/fakes/more/train") as lock:
        assert lock.acquire()
        assert main(command) == 0
    assert "more · train: submitted before: 101" in capsys.readouterr().out


@pytest.mark.parametrize("requeue", ["allowed", "refused"])
def test_at_the_time_limit_a_job_comes_again(
    requeue: str, fake_table: Path, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script, run by bash, in a folder with spaces: requeued, or submitted as another job."""
    results = fake_table.parent / "my results, 100%"
    given = arguments(fake_table, *MORE, "--launcher", "slurm", "--gpus=1", "--results")
    assert main([*given, str(results), "--", "--grad_accumulation_factor=1", "--pace=0.3"]) == 0
    folder = results / "fakes/more/train"
    script = folder / "job.sh"
    options = [
        word
        for line in script.read_text().splitlines()
        if line.startswith("#SBATCH ")
        for word in shlex.split(line.removeprefix("#SBATCH "), comments=True)
    ]
    assert f"--output={folder}/table_run.log".replace("%", "%%") in options
    if requeue == "refused":
        (cluster / "scontrol.down").write_text("Requested operation is presently disabled")
    monkeypatch.setenv("SLURM_JOB_ID", "101")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    job = subprocess.Popen(
        ["bash", script], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while not (folder / "steps").exists():  # it trains
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=120)
    assert "is nearly up" in said
    assert (cluster / "srun.calls").read_text().startswith("--cpus-per-task=6 ")
    record = read_record(folder)
    assert record is not None
    assert record.job == ("101;here" if requeue == "allowed" else "102;here")
    calls = (cluster / "sbatch.calls").read_text().splitlines()[1:]
    wanted = [f"--parsable --dependency=afterany:101 {script}"]
    assert calls == ([] if requeue == "allowed" else wanted)


def test_what_slurm_refuses_is_told(
    fake_table: Path, cluster: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cluster / "sbatch.down").write_text("no room")
    assert main(arguments(fake_table, "--rows", "good", "--launcher", "slurm", "--gpus", "2")) == 1
    assert "failed: no room" in capsys.readouterr().err
    site = fake_table.parent / "site.yaml"
    site.write_text("partiton: gpu\n")
    slurm = ["--launcher", "slurm", "--gpus", "2", "--site", str(site)]
    assert main(arguments(fake_table, *slurm)) == 1
    assert "'partiton' is none of" in capsys.readouterr().err


def test_show_and_list(fake_table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "show", str(fake_table)]) == 0
    out = capsys.readouterr().out
    assert "--data more=FOLDER (optional): more speech" in out
    assert "  published: test-clean 5, size 2.5, hours 3" in out
    assert "hparams/fake.yaml '--data_folder={speech}' '--start={words}' --wer=7" in out
