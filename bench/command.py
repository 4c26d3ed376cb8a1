"""Run the benchmark: every attack against every defense on one base model, one table.

Verbs, and the flag that does the same (each also takes `--help`):
  run                    make the cells that are not stored, then tables and report (the default)
  validate               --validate: what `run` with these flags would make and need, and what is
                         refused; makes nothing
  list [KIND]            --list: attacks, defenses, metrics, bases, suites, or all of them
  tables [FOLDER]        --tables-only: rebuild tables and report of a finished run
  score FOLDER           metrics of pictures that another tool drew (score --help)
  verify FOLDER          --verify FOLDER: check its records, make one of its cells again (with
                         --all: each of them), and compare
  vet MODEL              is there a backdoor in a model that others made? (vet --help)
  export CELL FOLDER     write the model of a cell of the run in --out into a new folder
  submit FOLDER --by ME  check a run, strip private paths, and pack it for a leaderboard
  accept ARCHIVE --by ME check what somebody submitted, and make a random sample of it again
  clean FOLDER           say what a run folder may lose and how much that frees; --delete deletes
  pack FOLDER            put its records into one compressed file, which every verb reads
  site OUT FOLDER...     a static site of these run folders: boards, and a page for each run, method
                         and cell
  convert OLD NEW        make safetensors of pickled weights, without running what is in them
  push FOLDER_OR_CELL REPO
                         a model or the results of a run to a hub, or into a folder
  completion SHELL       what bash, zsh or fish needs to complete all this

Examples, with `python run_bench.py` from a clone or `t2i-backdoor-bench` where it is installed:
  python run_bench.py                        the core attacks x (skdcag + baselines)
  python run_bench.py --scale smoke          does it work here?
  python run_bench.py --attacks badt2i_pixel --defenses none,skdcag --set skdcag.steps=200
  python run_bench.py --defenses none,skdcag --sweep skdcag.alpha=0,0.3,0.5,0.7,1
  python run_bench.py --defenses "none,skdcag[alpha=0.3],skdcag[alpha=0.7,steps=50]"
  python run_bench.py --config run.yaml      the flags of a file; every run writes one
  python run_bench.py --suite patch_size     a run or study that has a name (`list suites`)
  python run_bench.py --base FOLDER --suspect
                                             defenses on a checkpoint that may hold a backdoor
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract.errors import UserError, no_exit
from t2i_backdoor_bench.contract.printable import printable_stderr, visible
from t2i_backdoor_bench.flags import KINDS, make_parser
from t2i_backdoor_bench.verbs import APART, several_bases, shown_again, verify

if TYPE_CHECKING:
    from t2i_backdoor_bench.contract import Data
    from t2i_backdoor_bench.running.settings import Config


def without_verb(arguments: list[str]) -> tuple[list[str], str]:
    """The arguments with the flag instead of the verb, and the kind that `list` is asked for."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("run", [])
    if verb == "run":
        return rest, ""
    if verb in ("verify", "validate"):
        return [f"--{verb}", *rest], ""
    named = bool(rest) and not rest[0].startswith("-")
    if verb == "tables":
        return ["--tables-only", *(["--out"] if named else []), *rest], ""
    if verb == "list":
        if named and rest[0] not in KINDS:
            raise UserError(f"list {rest[0]}: choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        return ["--list", *rest[int(named) :]], rest[0] if named else ""
    return arguments, ""


def run(config: Config, data: Data | None = None, show: bool = True) -> int:
    """Make the cells of a run that are not stored, write tables and report, and `show` the table.
    Returns the exit status: 0, 1 if a cell failed, 75 if the time limit left cells, 130 if
    interrupted. Raises UserError."""
    from t2i_backdoor_bench.report.publish import publish
    from t2i_backdoor_bench.running.run import run as make_cells

    with no_exit():
        return make_cells(config, data, lambda store: publish(store, config.style, show))


def execute(arguments: list[str]) -> int:
    """What the command does. Raises UserError."""
    if arguments[:1] and arguments[0] in APART:
        return APART[arguments[0]](arguments[1:])
    arguments, kind = without_verb(arguments)
    flags = vars(make_parser(__doc__).parse_args(arguments))  # `--help` ends here
    with no_exit():
        return obey(flags, kind)


def obey(flags: dict[str, Any], kind: str) -> int:
    """What the flags ask for. Modules are imported where they are needed: `list` is quick. `kind`:
    what is listed. Raises UserError."""
    if flags.pop("version", False):
        print(version())
        return 0
    if flags.pop("list", False):
        from t2i_backdoor_bench.models.catalog import bases
        from t2i_backdoor_bench.report.formats import method_list
        from t2i_backdoor_bench.running.suites import suites

        method_list.show(list(bases()), suites(), only=kind)
        return 0
    folder = flags.pop("verify", None)
    asked = {name: flags.pop(name, False) for name in ("all", "fetch")}
    if folder:
        return verify(folder, **asked)
    if wrong := [f"--{name}" for name, given in asked.items() if given]:
        raise UserError(f"{' and '.join(wrong)} goes with verify FOLDER")
    from t2i_backdoor_bench.running.early import prepare
    from t2i_backdoor_bench.running.settings import make_config, merge
    from t2i_backdoor_bench.running.several_bases import each_base
    from t2i_backdoor_bench.running.suites import read_suite
    from t2i_backdoor_bench.running.yaml_file import read_yaml

    file, suite = flags.pop("config", None), flags.pop("suite", None)
    if file and suite:
        raise UserError("--config and --suite are both files of settings; give one of them")
    settings = {"controls": True}  # a file names all of its rows, or asks for controls, too
    if file or suite:
        settings = read_yaml(file) if file else read_suite(suite)
    tables_only, validate = (flags.pop(k, False) for k in ("tables_only", "validate"))
    config = make_config(merge(settings, flags))
    if several := each_base(config):
        return several_bases(several, run, validate, tables_only)
    if validate:
        from t2i_backdoor_bench.running.validate import validate as check

        return check(config)
    if tables_only:
        from t2i_backdoor_bench.report.publish import rebuild

        return rebuild(config.folder, config.style)
    return 0 if shown_again(config) else run(prepare(config))


def version() -> str:
    """The installed version of this package."""
    try:
        return importlib.metadata.version("t2i-backdoor-bench")
    except importlib.metadata.PackageNotFoundError:
        return "a clone that is not installed"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 2 with one line on stderr for what the user can mend."""
    with printable_stderr():
        try:
            return execute(sys.argv[1:] if arguments is None else arguments)
        except UserError as error:
            print(f"error: {visible(' '.join(str(error).split()))}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            text = "interrupted before any cell was begun; the same command starts again"
            print(text, file=sys.stderr)
            return 130
