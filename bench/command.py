"""Run the benchmark: every attack against every defense on one base model, one table.

Verbs, and the flag that does the same (each also takes `--help`):
  run                    make the cells that are not stored, then tables and report (the default)
  list [KIND]            --list: attacks, defenses, metrics, bases, or all of them
  tables [FOLDER]        --tables-only: rebuild tables and report of a finished run
  verify FOLDER          --verify FOLDER: make one of its cells again, and compare

Examples, with `python run_bench.py` from a clone or `t2i-backdoor-bench` where it is installed:
  python run_bench.py                        the core attacks x (skdcag + baselines)
  python run_bench.py --scale smoke          does it work here?
  python run_bench.py --attacks badt2i_pixel --defenses none,skdcag --set skdcag.steps=200
  python run_bench.py --defenses none,skdcag --sweep skdcag.alpha=0,0.3,0.5,0.7,1
  python run_bench.py --defenses "none,skdcag[alpha=0.3],skdcag[alpha=0.7,steps=50]"
  python run_bench.py --config run.yaml      the flags of a file; every run writes one
  python run_bench.py --base FOLDER --suspect
                                             defenses on a checkpoint that may hold a backdoor
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from t2i_backdoor_bench.contract.errors import UserError
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.running.scales import DTYPES, EXECUTORS, SCALES, STYLES

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract import Data
    from t2i_backdoor_bench.running.settings import Config

KINDS = ("attacks", "defenses", "metrics", "bases")  # what `list` can be asked for
NAMED = "names, groups or all, separated by commas; name[option=value,...] is a variant"
TEXTS = {  # flags that take a text: metavar, help
    "attacks": ("NAMES", f"{NAMED}; a+b puts both into one model (default: core)"),
    "defenses": ("NAMES", f"{NAMED}; a+b applies a, then b (default: skdcag,baseline)"),
    "metrics": ("NAMES", "names or all, separated by commas (default: all)"),
    "base": (None, "a name that `list bases` shows, a diffusers folder or a hub id"),
    "data": (
        "NAME",
        "captioned images: a hub id, a folder with metadata.csv, or parquet; options follow the"
        " name: NAME,split=train,caption=COLUMN,rows=N,stream (default: the embedded world)",
    ),
    "clip": ("MODEL", "the CLIP that scores: model:checkpoint of open_clip, or a local folder"),
    "device": (None, "cpu, cuda, cuda:1 (default: cuda where there is one)"),
    "memory": (
        "WAYS",
        "checkpointing (activations computed again), slicing (of attention), offload (what is"
        " idle, to the CPU); separated by commas",
    ),
    "trigger": ("TEXT", "with --suspect: the trigger, where it is known"),
}
REPEATED = {
    "set": ("NAME.OPTION=VALUE", "an option of a method; repeatable"),
    "sweep": (
        "NAME.OPTION=V1,V2",
        "every value of an option of an attack or a defense as a row of its own, and a plot;"
        " repeatable",
    ),
}
CHOSEN = {
    "scale": (SCALES, "how much to measure (default: quick)"),
    "dtype": (DTYPES, "precision of the base model (default: float32)"),
    "executor": (EXECUTORS, "ray: cells as Ray tasks, here or on a cluster (default: local)"),
    "style": (STYLES, "paper: removal accuracy by target, as in the SKD-CAG paper (default: full)"),
}
COUNTS = {
    "n": "evaluation prompts a condition (default: the scale's)",
    "workers": "cells made at a time, each by a process (default: a core each on the embedded"
    " base, or 1)",
    "threads": "CPU threads of torch, each worker's (default: 1 on the embedded base)",
}
PATHS = {
    "out": ("FOLDER", "run folder (default: results/run-SCALE); a run in it resumes"),
    "config": ("FILE", "a YAML file with these flags as names; flags given here win"),
    "verify": ("FOLDER", "make a cell of a finished run again, elsewhere, and compare"),
}
SWITCHES = {
    "attention-maps": "also draw each model's cross-attention maps: attention-ATTACK.png",
    "probe": "also see whether the backdoor comes back: after clean fine-tuning, under other"
    " samplers",
    "fresh": "make everything anew, whatever the folder holds",
    "suspect": "the base may hold a backdoor: defend it as it is, without an attack",
    "list": "list attacks, defenses, metrics, groups and bases, and stop",
    "tables-only": "rebuild tables, plots and report from the run folder, without a model",
    "version": "print the version, and stop",
}


class Parser(argparse.ArgumentParser):
    """Reports a bad flag as everything else that is wrong: one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def make_parser() -> Parser:
    """All flags. What is not given is left to the file, or to the defaults of `Config`."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    for name, (metavar, text) in TEXTS.items():
        add(f"--{name}", metavar=metavar, help=text)
    for name, (metavar, text) in REPEATED.items():
        add(f"--{name}", action="append", metavar=metavar, help=text)
    for name, (choices, text) in CHOSEN.items():
        add(f"--{name}", choices=choices, help=text)
    for name, text in COUNTS.items():
        add(f"--{name}", type=int, help=text)
    for name, (metavar, text) in PATHS.items():
        add(f"--{name}", type=Path, metavar=metavar, help=text)
    for name, text in SWITCHES.items():
        add(f"--{name}", action="store_true", help=text)
    add("--seeds", type=seeds, metavar="0,1,2", help="training and noise seeds (default: scale's)")
    share = "with --executor ray: GPUs that a cell takes (default: 1 on cuda)"
    add("--gpu-share", type=float, metavar="GPUS", help=share)
    return parser


def seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(s) for s in text.split(",") if s.strip()))
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 0,1,2")
    return found


def without_verb(arguments: list[str]) -> tuple[list[str], str]:
    """The arguments with the flag instead of the verb, and the kind that `list` is asked for."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("run", [])
    if verb == "run":
        return rest, ""
    if verb == "verify":
        return ["--verify", *rest], ""
    named = bool(rest) and not rest[0].startswith("-")
    if verb == "tables":
        return ["--tables-only", *(["--out"] if named else []), *rest], ""
    if verb == "list":
        if named and rest[0] not in KINDS:
            raise UserError(f"list {rest[0]}: it lists {', '.join(KINDS)}")
        return ["--list", *rest[int(named) :]], rest[0] if named else ""
    return arguments, ""


def run(config: Config, data: Data | None = None, show: bool = True) -> int:
    """Make the cells of a run that are not stored, write tables and report, and `show` the table.
    Returns the exit status: 0, 1 if a cell failed, 130 if interrupted. Raises UserError."""
    from t2i_backdoor_bench.report.publish import publish
    from t2i_backdoor_bench.running.run import run as make_cells

    return make_cells(config, data, lambda store: publish(store, config.style, show))


def execute(arguments: list[str]) -> int:
    """What the command does. Modules are imported where they are needed: `--help` and `list` are
    quick. Raises UserError."""
    arguments, kind = without_verb(arguments)
    flags = vars(make_parser().parse_args(arguments))
    if flags.pop("version", False):
        print(importlib.metadata.version("t2i-backdoor-bench"))
        return 0
    if flags.pop("list", False):
        from t2i_backdoor_bench.models.catalog import BASES
        from t2i_backdoor_bench.report.formats import method_list

        method_list.show(list(BASES), only=kind)
        return 0
    if folder := flags.pop("verify", None):
        from t2i_backdoor_bench.report.changed import changed_tables
        from t2i_backdoor_bench.running.verify import verify

        return verify(folder, changed_tables)
    from t2i_backdoor_bench.running.settings import make_config, merge

    settings = {}
    if file := flags.pop("config", None):
        from t2i_backdoor_bench.running.yaml_file import read_yaml

        settings = read_yaml(file)
    tables_only = flags.pop("tables_only", False)
    config = make_config(merge(settings, flags))
    if tables_only:
        from t2i_backdoor_bench.report.publish import rebuild

        return rebuild(config.folder, config.style)
    return run(config)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 2 with one line on stderr for what the user can mend."""
    try:
        return execute(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        text = "interrupted before any cell was begun; the same command starts again"
        print(text, file=sys.stderr)
        return 130
