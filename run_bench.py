#!/usr/bin/env python
"""Run the benchmark: every attack against every defense on one base model, one table.

python run_bench.py                                       all attacks x (skdcag + baselines)
python run_bench.py --scale smoke                         does it work here?
python run_bench.py --attacks badt2i_pixel --defenses none,skdcag --set skdcag.steps=200
python run_bench.py --defenses none,skdcag --sweep skdcag.alpha=0,0.3,0.5,0.7,1
python run_bench.py --list                                what there is
python run_bench.py --tables-only --out results/run-quick rebuild the tables of a finished run
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from bench.plan import DTYPES, SCALES, Config
from bench.types import UserError


class Parser(argparse.ArgumentParser):
    """Reports a bad flag as everything else that is wrong: one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def make_parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    names = "names, groups or all, separated by commas"
    parser.add_argument("--attacks", default="all", metavar="NAMES", help=f"{names} (default: all)")
    parser.add_argument(
        "--defenses", default="skdcag,baseline", metavar="NAMES", help=f"{names}; a+b applies a, then b (default: %(default)s)"
    )
    parser.add_argument("--metrics", metavar="NAMES", help=f"{names} (default: all)")
    parser.add_argument(
        "--base", default="shapes", help="shapes, sd14, sd15, sd21, sd21-base, a local diffusers folder or a hub id (default: shapes)"
    )
    parser.add_argument(
        "--data",
        default="",
        metavar="NAME",
        help="captioned images: a hub id, a folder with metadata.csv, or parquet; options follow the name: "
        "NAME,split=train,caption=COLUMN,rows=N,stream (default: the embedded world)",
    )
    parser.add_argument(
        "--clip", default="", metavar="MODEL", help="the CLIP that scores: model:checkpoint of open_clip, or a local folder"
    )
    parser.add_argument("--scale", default="quick", choices=SCALES, help="how much to measure (default: quick)")
    parser.add_argument("--seeds", type=seeds, metavar="0,1,2", help="training and noise seeds (default: the scale's)")
    parser.add_argument("--n", type=int, help="evaluation prompts a condition (default: the scale's)")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="NAME.OPTION=VALUE", help="an option of a method; repeatable"
    )
    parser.add_argument(
        "--sweep",
        dest="sweeps",
        action="append",
        default=[],
        metavar="NAME.OPTION=V1,V2",
        help="every value of an option of an attack or a defense as a row of its own, and a plot; repeatable",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="run folder (default: results/run-SCALE); a run in it resumes")
    parser.add_argument("--attention-maps", action="store_true", help="also draw each model's cross-attention maps: attention-ATTACK.png")
    parser.add_argument("--fresh", action="store_true", help="make everything anew, whatever the folder holds")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="precision of the base model (default: float32)")
    parser.add_argument(
        "--memory",
        default="",
        metavar="WAYS",
        help="checkpointing (activations computed again), slicing (of attention); separated by commas",
    )
    parser.add_argument(
        "--workers", type=int, help="cells made at a time, each by a process (default: a core each on the embedded base, or 1)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of torch, each worker's (default: 1 on the embedded base)")
    parser.add_argument("--list", action="store_true", help="list attacks, defenses, metrics, groups and bases, and stop")
    parser.add_argument("--tables-only", action="store_true", help="rebuild tables and grid from the run folder, without a model")
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
    from rich.console import Console
    from rich.table import Table

    from bench import registry
    from bench.bases import BASES

    console = Console() if sys.stdout.isatty() else Console(width=160)
    for kind in (registry.attacks, registry.defenses, registry.metrics):
        kind.load()
        table = Table(title=f"{kind.kind}s", title_justify="left", header_style="bold")
        extra = {"defense": "needs", "metric": "better"}.get(kind.kind)
        for column in ["name", "groups", *([extra] if extra else []), "summary"]:
            table.add_column(column, no_wrap=column == "name")
        for entry in kind.entries.values():
            info = entry.info.get(extra, "") if extra else ""
            cells = [info if isinstance(info, str) else ", ".join(info)] if extra else []
            table.add_row(entry.name, ", ".join(entry.groups), *cells, entry.summary)
        console.print(table)
    console.print(f"bases: {', '.join(BASES)}, a local diffusers folder, or a hub id", markup=False)


def main(arguments: list[str] | None = None) -> int:
    try:
        args = make_parser().parse_args(arguments)
        if args.list:
            list_methods()
            return 0
        for flag in ("threads", "workers"):
            if (given := getattr(args, flag)) is not None and given < 1:
                raise UserError(f"--{flag} {given} must be 1 or more")
        config = Config(
            attacks=args.attacks,
            defenses=args.defenses,
            base=args.base,
            data=args.data,
            clip=args.clip,
            memory=tuple(w.strip() for w in args.memory.split(",") if w.strip()),
            scale=SCALES[args.scale],
            seeds=args.seeds,
            n=args.n,
            metrics=args.metrics,
            overrides=tuple(args.overrides),
            sweeps=tuple(args.sweeps),
            out=args.out,
            fresh=args.fresh,
            attention_maps=args.attention_maps,
            device=args.device or "auto",
            dtype=args.dtype,
            threads=args.threads,
            workers=args.workers,
        )
        from bench import runner  # after the flags are checked: it takes seconds to import

        return runner.rebuild(config.folder) if args.tables_only else runner.run(config)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before any cell was begun; the same command starts again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
