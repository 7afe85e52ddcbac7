"""Runs every task of MP3S on one encoder and prints the table, published figures beside ours.

    python run_all.py --encoder=ENCODER --corpora=/data
    python run_all.py --encoder=ENCODER --corpora=/data --tasks iemocap_linear slurp_scenario_linear
    python run_all.py --encoder=ENCODER --corpora=/data -- --num_workers=0 --device=cpu

What follows ``--`` goes to every train.py. The same command again goes on where it was stopped:
what is finished is kept, what failed is tried again. Results: table.md and table.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from summarymixing_modules.bundles.speech_encoder import frozen_encoder
from summarymixing_modules.errors import InputError
from summarymixing_modules.training.config import run
from summarymixing_modules.training.probing_table import (
    COLUMNS,
    Cell,
    finished_cell,
    render_table,
    write_table,
)

HERE = Path(__file__).resolve().parent


def main(argv: Sequence[str]) -> int:
    """Runs the probes; returns how many failed."""
    arguments, more = parse(argv)
    names = arguments.tasks or list(COLUMNS)
    digest = frozen_encoder(arguments.encoder, trust_run=arguments.trust_run).digest()
    folder = Path(arguments.output_folder).resolve()
    cells: dict[str, Cell] = {}
    for name in tqdm(names, unit="probe"):
        run_folder = folder / name
        cell = finished_cell(name, run_folder, digest)
        if cell is None:
            error = train(name, arguments, run_folder, more)
            cell = finished_cell(name, run_folder, digest) or Cell(name, error=error)
        cells[name] = cell
        tqdm.write(f"{name}: {cell.text()}", file=sys.stderr)
        write_table(folder, cells, str(arguments.encoder), digest)  # of what is done so far
    print(render_table(cells))
    print(f"Table: {folder / 'table.md'} and {folder / 'table.json'}")
    failed = [name for name, cell in cells.items() if cell.error]
    for name in failed:
        print(f"failed: {name}: {cells[name].error}", file=sys.stderr)
    return len(failed)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and those for every train.py."""
    own, more = list(argv), []
    if "--" in own:
        cut = own.index("--")
        own, more = own[:cut], own[cut + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--encoder", required=True, help="bundle, run, or folder of Hugging Face")
    parser.add_argument(
        "--trust_run", action="store_true", help="ENCODER may be a run, whose YAML file is code"
    )
    parser.add_argument("--corpora", required=True, help="folder that holds the corpora's folders")
    parser.add_argument("--tasks", nargs="+", choices=list(COLUMNS), help="default: all")
    parser.add_argument("--output_folder", default="results/mp3s", help="a folder for this encoder")
    arguments = parser.parse_args(own)
    if not Path(arguments.corpora).is_dir():
        raise InputError(f"--corpora={arguments.corpora}: no such folder.")
    return arguments, more


def train(
    name: str, arguments: argparse.Namespace, run_folder: Path, more: Sequence[str]
) -> str | None:
    """Runs one probe in a process of its own; returns what went wrong, if anything did."""
    command = [sys.executable, str(HERE / "train.py"), str(HERE / "hparams" / f"{name}.yaml")]
    command += [f"--encoder={Path(arguments.encoder).resolve()}"]
    command += [f"--data_folder={Path(arguments.corpora).resolve()}"]
    command += [f"--trust_run={arguments.trust_run}", f"--output_folder={run_folder}", *more]
    if name.startswith("cv_") and not any(o.startswith("--clips_folder") for o in more):
        command.append(f"--clips_folder={run_folder.parent / 'clips_16k'}")
    run_folder.mkdir(parents=True, exist_ok=True)
    log = run_folder / "run.log"
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
    if done.returncode == 0:
        return None
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if line.startswith("error:")), None)
    return f"{reason or (lines or ['no output'])[-1]} (see {log})"


if __name__ == "__main__":
    run(lambda argv: sys.exit(min(1, main(argv))))
