"""Run the benchmark: every attack against every defense on one base model, one table.

python run_bench.py                                       the core attacks x (skdcag + baselines)
python run_bench.py --scale smoke                         does it work here?
python run_bench.py --attacks badt2i_pixel --defenses none,skdcag --set skdcag.steps=200
python run_bench.py --defenses none,skdcag --sweep skdcag.alpha=0,0.3,0.5,0.7,1
python run_bench.py --defenses "none,skdcag[alpha=0.3],skdcag[alpha=0.7,steps=50]"
python run_bench.py --list                                what there is
python run_bench.py --config run.yaml                     the flags of a file; every run writes the one that repeats it
python run_bench.py --base FOLDER --suspect               defenses on a checkpoint that may hold a backdoor
python run_bench.py --tables-only --out results/run-quick rebuild tables and report of a finished run
python run_bench.py --verify results/run-quick            make one of its cells again, and compare
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.running.scales import DTYPES, EXECUTORS, SCALES, STYLES
from t2i_backdoor_bench.running.settings import make_config, merge
from t2i_backdoor_bench.running.yaml_file import read_yaml

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract import Data
    from t2i_backdoor_bench.running.settings import Config


class Parser(argparse.ArgumentParser):
    """Reports a bad flag as everything else that is wrong: one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def make_parser() -> Parser:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        # what is not given is left to the file, or to the defaults of
        # t2i_backdoor_bench.running.plan.Config
        argument_default=argparse.SUPPRESS,
    )
    names = "names, groups or all, separated by commas; name[option=value,...] is a variant"
    parser.add_argument(
        "--attacks", metavar="NAMES", help=f"{names}; a+b puts both into one model (default: core)"
    )
    parser.add_argument(
        "--defenses",
        metavar="NAMES",
        help=f"{names}; a+b applies a, then b (default: skdcag,baseline)",
    )
    parser.add_argument(
        "--metrics", metavar="NAMES", help="names or all, separated by commas (default: all)"
    )
    parser.add_argument(
        "--base",
        help=(
            "shapes, sd14, sd15, sd21, sd21-base, a local diffusers folder or a hub id (default:"
            " shapes)"
        ),
    )
    parser.add_argument(
        "--data",
        metavar="NAME",
        help=(
            "captioned images: a hub id, a folder with metadata.csv, or parquet; options follow the"
            " name: NAME,split=train,caption=COLUMN,rows=N,stream (default: the embedded world)"
        ),
    )
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        help="the CLIP that scores: model:checkpoint of open_clip, or a local folder",
    )
    parser.add_argument("--scale", choices=SCALES, help="how much to measure (default: quick)")
    parser.add_argument(
        "--seeds",
        type=seeds,
        metavar="0,1,2",
        help="training and noise seeds (default: the scale's)",
    )
    parser.add_argument(
        "--n", type=int, help="evaluation prompts a condition (default: the scale's)"
    )
    parser.add_argument(
        "--set",
        action="append",
        metavar="NAME.OPTION=VALUE",
        help="an option of a method; repeatable",
    )
    parser.add_argument(
        "--sweep",
        action="append",
        metavar="NAME.OPTION=V1,V2",
        help=(
            "every value of an option of an attack or a defense as a row of its own, and a plot;"
            " repeatable"
        ),
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="run folder (default: results/run-SCALE); a run in it resumes",
    )
    parser.add_argument(
        "--attention-maps",
        action="store_true",
        help="also draw each model's cross-attention maps: attention-ATTACK.png",
    )
    parser.add_argument(
        "--probe",
        action="store_true",
        help=(
            "also see whether the backdoor comes back: after clean fine-tuning, under other"
            " samplers"
        ),
    )
    parser.add_argument(
        "--fresh", action="store_true", help="make everything anew, whatever the folder holds"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="precision of the base model (default: float32)"
    )
    parser.add_argument(
        "--memory",
        metavar="WAYS",
        help=(
            "checkpointing (activations computed again), slicing (of attention), offload (what is"
            " idle, to the CPU); separated by commas"
        ),
    )
    parser.add_argument(
        "--workers",
        type=int,
        help=(
            "cells made at a time, each by a process (default: a core each on the embedded base,"
            " or 1)"
        ),
    )
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        help="ray: cells as Ray tasks, here or on a cluster (default: local)",
    )
    parser.add_argument(
        "--gpu-share",
        type=float,
        metavar="GPUS",
        help="with --executor ray: GPUs that a cell takes (default: 1 on cuda)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        help="CPU threads of torch, each worker's (default: 1 on the embedded base)",
    )
    parser.add_argument(
        "--suspect",
        action="store_true",
        help="the base may hold a backdoor: defend it as it is, without an attack",
    )
    parser.add_argument(
        "--trigger", metavar="TEXT", help="with --suspect: the trigger, where it is known"
    )
    parser.add_argument(
        "--style",
        choices=STYLES,
        help="paper: removal accuracy by target, as the SKD-CAG paper has it (default: full)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a YAML file with these flags as names; flags given here win",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="list attacks, defenses, metrics, groups and bases, and stop",
    )
    parser.add_argument(
        "--tables-only",
        action="store_true",
        help="rebuild tables, plots and report from the run folder, without a model",
    )
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="FOLDER",
        help="make a cell of a finished run again, elsewhere, and compare",
    )
    return parser


def seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(s) for s in text.split(",") if s.strip()))
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 0,1,2")
    return found


def list_methods() -> None:
    from t2i_backdoor_bench.report.formats import terminal

    terminal.list_methods()


def run(config: Config, data: Data | None = None, show: bool = True) -> int:
    """Make the cells of a run that are not stored, write tables and report, and `show` the table.
    Returns the exit status: 0, 1 if a cell failed, 130 if interrupted. Raises UserError."""
    from t2i_backdoor_bench.report.publish import publish
    from t2i_backdoor_bench.running.run import run as make_cells

    return make_cells(config, data, lambda store: publish(store, config.style, show))


def main(arguments: list[str] | None = None) -> int:
    try:
        flags = vars(make_parser().parse_args(arguments))
        if flags.pop("list", False):
            list_methods()
            return 0
        tables_only, verified, file = (
            flags.pop("tables_only", False),
            flags.pop("verify", None),
            flags.pop("config", None),
        )
        if verified:
            from t2i_backdoor_bench.report.changed import changed_tables
            from t2i_backdoor_bench.running.verify import verify

            return verify(verified, changed_tables)
        config = make_config(merge(read_yaml(file) if file else {}, flags))
        if tables_only:
            from t2i_backdoor_bench.report.publish import rebuild

            return rebuild(config.folder, config.style)
        return run(config)
    except UserError as error:
        print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted before any cell was begun; the same command starts again", file=sys.stderr
        )
        return 130
