"""The flags of the command. Each is also a setting of a YAML file and an argument of `run`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from t2i_backdoor_bench.contract.errors import UserError
from t2i_backdoor_bench.running.scales import DTYPES, EXECUTORS, FORMS, SCALES, STYLES

NAMED = "names, groups or all, separated by commas; name[option=value,...] is a variant"
KINDS = ("attacks", "defenses", "metrics", "bases", "suites")  # what `list` can be asked for
FORM_HELP = "a diffusers folder, the changed tensors, or a LoRA difference (default: folder)"
COLUMNS = "what a paper reports: attack, defense, metric, value, source"
SHELLS = ("bash", "zsh", "fish")
TEXTS = {  # flags that take a text: metavar, help
    "attacks": ("NAMES", f"{NAMED}; a+b puts both into one model (default: core)"),
    "defenses": ("NAMES", f"{NAMED}; a+b applies a, then b (default: skdcag,baseline)"),
    "metrics": ("NAMES", "names or all, separated by commas (default: all)"),
    "base": (
        None,
        "a name that `list bases` shows, a diffusers folder or a hub id; A,B is the same run on"
        " each, and a comparison",
    ),
    "data": (
        "NAME",
        "captioned images: a hub id, a folder with metadata.csv or a .txt beside each, or parquet;"
        " options follow: NAME,split=train,caption=COLUMN,rows=N (default: the embedded world)",
    ),
    "clip": ("MODEL", "the CLIP that scores: model:checkpoint of open_clip, or a local folder"),
    "device": (None, "cpu, cuda, cuda:1 (default: cuda where there is one)"),
    "memory": (
        "WAYS",
        "checkpointing (activations computed again), slicing (of attention), offload (what is"
        " idle, to the CPU), adam8bit (moments of every training); separated by commas",
    ),
    "scheduler": (
        "NAME",
        "dpm, ddim, euler, lcm, or own: the base's own; other families have others (default: dpm,"
        " and own for models of few steps)",
    ),
    "save-models": (
        "KINDS",
        "attacked, repaired: also write the models of each cell into the run folder, as diffusers"
        " folders with a model card",
    ),
    "trigger": ("TEXT", "with --suspect: the trigger, where it is known"),
    "track": (
        "NAMES",
        "tensorboard, wandb, mlflow, separated by commas: losses, numbers, tables and pictures go"
        " there, too",
    ),
    "time-limit": (
        "TIME",
        "after it no cell is begun: seconds, or 90m, 2h, 1:30:00; what has begun is finished,"
        " tables are written, and the same command goes on (exit status 75)",
    ),
}
REPEATED = {
    "model": (
        "PATH[,scale=S]",
        "what is taken over the base: a part of a model, changed weights, a file in the original"
        " layout, an adapter (LoRA) with its scale, a learned word; repeatable, in this order",
    ),
    "set": ("NAME.OPTION=VALUE", "an option of a method; repeatable"),
    "sweep": (
        "NAME.OPTION=V1,V2",
        "every value of an option of an attack or a defense as a row of its own, and a plot;"
        " repeatable",
    ),
}
CHOSEN = {
    "scale": (SCALES, "how much to measure (default: quick)"),
    "dtype": (
        DTYPES,
        "precision of the base model (default: float32; bfloat16 for others than the embedded"
        " bases on CUDA)",
    ),
    "executor": (EXECUTORS, "ray: cells as Ray tasks, here or on a cluster (default: local)"),
    "style": (STYLES, "paper: removal accuracy by target, as in the SKD-CAG paper (default: full)"),
}
COUNTS = {
    "n": "evaluation prompts a condition (default: the scale's)",
    "steps": "sampler steps (default: the base's)",
    "workers": "cells made at a time, each by a process (default: a core each on the embedded"
    " base, or 1)",
    "threads": "CPU threads of torch, each worker's (default: 1 on the embedded base)",
}
PATHS = {
    "prompts": ("FILE", "instead of --data, where no pictures are needed: a .txt, a prompt a line"),
    "out": ("FOLDER", "run folder (default: results/run-SCALE); a run in it resumes"),
    "config": ("FILE", "a YAML file with these flags as names; flags given here win"),
    "verify": ("FOLDER", "check a finished run: make a cell of it again, elsewhere, and compare"),
}
SWITCHES = {
    "attention-maps": "also draw each model's cross-attention maps: attention-ATTACK.png",
    "probe": "also see whether the backdoor comes back: after clean fine-tuning, with a"
    " benign adapter, under other samplers (--scale study and full do without this flag)",
    "fresh": "make everything anew, whatever the folder holds",
    "renew": "make those stored cells anew whose source files have changed since",
    "suspect": "the base may hold a backdoor: defend it as it is, without an attack",
    "all": "with --verify: make every cell again, and not one that is chosen at random",
    "fetch": "with --verify: what run.json names may be fetched from the hub",
    "list": "list attacks, defenses, metrics, groups, bases and suites, and stop",
    "validate": "make the plan, say what it would take and what is refused, and stop",
    "tables-only": "rebuild tables, plots and report from the run folder, without a model",
    "version": "print the version, and stop",
}


class Parser(argparse.ArgumentParser):
    """Reports a bad flag as everything else that is wrong: one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def make_parser(description: str = "") -> Parser:
    """All flags. What is not given is left to the file, or to the defaults of `Config`."""
    parser = Parser(
        description=description,
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
        add(f"--{name}", type=path, metavar=metavar, help=text)
    for name, text in SWITCHES.items():
        add(f"--{name}", action="store_true", help=text)
    add("--seeds", type=seeds, metavar="0,1,2", help="training and noise seeds (default: scale's)")
    limit = "a trial: the first N evaluation prompts alone, or a share of them below 1"
    add("--limit", type=float, metavar="N", help=limit)
    add("--guidance", type=float, metavar="SCALE", help="of guidance (default: the base's)")
    controls = "the rows strip_trigger and refuse_all beside the defenses: they draw nothing of"
    controls += " their own (default: yes; with --config and --suite, as the file says)"
    add("--controls", action=argparse.BooleanOptionalAction, help=controls)
    suite = "a run or study that has a name, which `list suites` shows; flags given here win"
    add("--suite", "--study", metavar="NAME", help=suite)
    share = "with --executor ray: GPUs that a cell takes (default: 1 on cuda)"
    add("--gpu-share", type=float, metavar="GPUS", help=share)
    every = "seconds between two checkpoints of a training, which goes on from them (default: 60)"
    add("--checkpoint-every", type=float, metavar="SECONDS", help=every)
    return parser


def _score_parser() -> Parser:
    """The flags of `score FOLDER`."""
    description = "Metrics of pictures that another tool drew, as far as they need no model."
    parser = Parser(prog="t2i-backdoor-bench score", description=description)
    add = parser.add_argument
    add("folder", type=path, metavar="FOLDER", help="the pictures")
    texts = {
        "prompts": "their prompts: a prompt a line, in the order of the names of the pictures, or a"
        " table that names each (default: the captions in FOLDER)",
        "reference": "a folder of real pictures, for KID and FID",
        "out": "where scores.csv is written (default: results/score-NAME)",
    }
    for name, text in texts.items():
        metavar = "FILE" if name == "prompts" else "FOLDER"
        add(f"--{name}", type=path, default=None, metavar=metavar, help=text)
    add("--metrics", default="all", metavar="NAMES", help=TEXTS["metrics"][1])
    clip = f"{TEXTS['clip'][1]}, or shapes, that of the embedded world (default: %(default)s)"
    add("--clip", default="ViT-L-14:openai", metavar="MODEL", help=clip)
    add("--device", default="auto", help=TEXTS["device"][1])
    return parser


def _vet_parser() -> Parser:
    """The flags of `vet MODEL`."""
    description = "Is there a backdoor in a model that others made?"
    parser = Parser(prog="t2i-backdoor-bench vet", description=description)
    add = parser.add_argument
    what = "a diffusers folder, a hub id, or a part of a model or an adapter that goes over --base"
    add("model", metavar="MODEL", help=what)
    clean = "the clean model that it was made from: much smaller backdoors are seen beside it"
    add("--base", default="", metavar="CLEAN", help=clean)
    add("--trigger", action="append", metavar="TEXT", help="a text to look at; repeatable")
    add("--triggers", type=path, metavar="FILE", help="a .txt with such texts, one a line")
    log = "a .txt with prompts as your users wrote them, one a line: what is in them is looked at"
    add("--prompts", type=path, metavar="FILE", help=log)
    add("--data", default="", metavar="NAME", help=TEXTS["data"][1])
    add("--device", default="auto", help=TEXTS["device"][1])
    add("--dtype", default="auto", choices=DTYPES, help=CHOSEN["dtype"][1])
    add("--seed", type=int, default=0, help="of prompts, noise and search (default: 0)")
    mend = "then try removals on the text that was found, or on --trigger, and write the best"
    mend += " repaired model into FOLDER/repaired (default: skdcag,skd,uce,esd_x and, with --base,"
    mend += " finetune_reversal)"
    add("--repair", nargs="?", const="", default=None, metavar="NAMES", help=mend)
    add("--out", type=path, metavar="FOLDER", help="default: results/vet-NAME")
    return parser


def make_parsers() -> dict[str, Parser]:
    """Of the verbs whose flags are their own, and no settings of a run."""
    found = {}

    def parser(verb: str, description: str) -> Callable[..., Any]:
        found[verb] = Parser(prog=f"t2i-backdoor-bench {verb}", description=description)
        return found[verb].add_argument

    add = parser("site", "A static site of run folders.")
    add("out", type=path, metavar="OUT", help="folder of the site")
    add("folders", type=path, metavar="FOLDER", nargs="+", help="run folders")
    add("--signers", type=path, metavar="FILE", help="known keys, one `NAME KEYTYPE KEY` a line")
    add = parser("convert", "Make safetensors of pickled weights (.bin, .pt, .ckpt).")
    add("source", type=path, metavar="OLD", help="a file, or a folder of a model")
    add("target", type=path, metavar="NEW", help="a new file (.safetensors) or folder")
    add = parser("export", "Write the model of one cell of a run, with a model card.")
    add("cell", metavar="CELL", help="ATTACK/DEFENSE/SEED, or the beginning of its key")
    add("folder", type=path, metavar="FOLDER", help="a new folder")
    default = Path("results/run-quick")
    add("--out", type=path, default=default, metavar="RUN", help=f"its run (default: {default})")
    add("--form", choices=FORMS, default="folder", help=FORM_HELP)
    add("--rank", type=int, help="of the LoRA difference (default: 16)")
    add = parser("submit", "Check a run, strip private paths, and pack it for a leaderboard.")
    add("folder", type=path, metavar="FOLDER", help="a finished run")
    add("--by", required=True, metavar="NAME", help="who made it, as the site shall show it")
    add("--title", default="", help="what the site shall call the run (default: its folder)")
    add("--contact", default="", help="where questions go, such as a mail address; it is shown")
    add("--reported", type=path, metavar="CSV", help=COLUMNS)
    add("--out", type=path, metavar="ARCHIVE", help="default: FOLDER.submission.tar.gz")
    add("--sign", type=path, metavar="KEY", help="an SSH key that signs the records")
    add = parser("accept", "Check what was submitted, and make a random sample of it again.")
    add("archive", type=path, metavar="ARCHIVE", help="what submit wrote")
    add("--by", required=True, metavar="NAME", help="who checks it, as the site shall show it")
    add("--out", type=path, required=True, metavar="FOLDER", help="a new folder for the run")
    add("--sample", type=int, default=3, metavar="N", help="cells to make again (default: 3)")
    add("--sign", type=path, metavar="KEY", help="an SSH key that signs what was found")
    add("--fetch", action="store_true", help="what run.json names may be fetched from the hub")
    add = parser("clean", "Say what a run folder may lose, or delete it.")
    add("folder", type=path, metavar="FOLDER", help="a run folder")
    kinds = "what to delete, separated by commas, or all: the names that are listed without this"
    add("--delete", metavar="KINDS", help=kinds)
    add = parser("pack", "Put the records of a run folder into one compressed file.")
    add("folder", type=path, metavar="FOLDER", help="a run folder")
    add("--undo", action="store_true", help="give each record a file of its own again")
    add = parser("push", "Push a model or the results of a run to a hub, or into a folder.")
    what = (
        "a run folder, a model that --save-models or export wrote, or a cell: ATTACK/DEFENSE/SEED"
    )
    add("what", metavar="FOLDER_OR_CELL", help=what)
    repo = "OWNER/NAME of the hub, or a new folder as a path (./NAME) or a file:// address"
    add("repo", metavar="REPO", help=repo)
    add("--out", type=path, default=default, metavar="RUN", help=f"the cell's run ({default})")
    add("--public", action="store_true", help="a new repository is public (default: private)")
    add = parser("completion", "Print what a shell needs to complete the command.")
    add("shell", choices=SHELLS, help="the shell")
    found["score"], found["vet"] = _score_parser(), _vet_parser()
    return found


def path(text: str) -> Path:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a path")
    return Path(text)


def seeds(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(s) for s in text.split(",") if s.strip()))
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 0,1,2")
    return found
