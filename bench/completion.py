"""`completion SHELL`: what a shell needs to complete the command, with the names of all methods,
bases and suites that are installed now."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.contract.listing import listed
from t2i_backdoor_bench.flags import KINDS, SHELLS, Parser, make_parser, make_parsers
from t2i_backdoor_bench.models.catalog import BASES
from t2i_backdoor_bench.running.suites import suites

PROGRAM = "t2i-backdoor-bench"
VERBS = {
    "run": "make the cells that are not stored, then tables and report",
    "validate": "what run would make, need and refuse",
    "list": "attacks, defenses, metrics, bases or suites",
    "tables": "rebuild tables and report of a finished run",
    "verify": "check a finished run",
}
FOLDERS, FILES = (
    ("FOLDER", "FOLDER_OR_CELL", "OUT", "RUN"),
    ("FILE", "ARCHIVE", "CSV", "KEY", "OLD", "PATH[,scale=S]"),
)
# names with commas, or with "+", between them: what stands before the last one stays
SCRIPTS = {
    "bash": """
$function() {
  local before="$${1%"$${1##*[,+]}"}"
  compgen -P "$$before" -W "$names" -- "$${1##*[,+]}"
}
""",
    "zsh": """
$function() {
  compset -P '*[,+]'
  compadd -q -S '' -- $names
}
""",
    "fish": """
function $function
  set -l before (string replace -r '[^,+]*$$' '' -- (commandline -ct))
  for name in $names
    echo "$$before$$name"
  end
end
""",
}


def names() -> dict[str, list[str]]:
    """What can be named, by the flag: methods with their groups, bases, suites."""
    found = {}
    for flag, kind in (("attacks", "attack"), ("defenses", "defense"), ("metrics", "metric")):
        methods = listed(kind)
        groups = {group for method in methods for group in method.groups}
        found[flag] = sorted({m.name for m in methods} | groups | {"all"})
    return found | {"base": list(BASES), "suite": list(suites())}


def completer(flag: str, known: Sequence[str]) -> dict[str, Any]:
    """How each shell completes a list of these names."""
    function = f"_t2i_{flag}"
    words = " ".join(shlex.quote(name) for name in known)
    texts = {k: Template(v).substitute(function=function, names=words) for k, v in SCRIPTS.items()}
    calls = {"bash": function, "zsh": function, "fish": f"({function})"}
    return calls | {"preamble": texts}


def whole_parser(known: Mapping[str, Sequence[str]]) -> Parser:
    """All verbs with their flags, as one parser. Without a verb the flags are those of `run`."""
    import shtab

    parser = make_parser()
    parser.prog = PROGRAM
    of_run = make_parser()
    verbs = parser.add_subparsers(dest="verb", parser_class=Parser)
    for name, about in VERBS.items():
        parents = [of_run] if name in ("run", "validate") else []
        one = verbs.add_parser(name, help=about, parents=parents, add_help=not parents)
        if name == "list":
            one.add_argument("kind", nargs="?", choices=KINDS)
        if name in ("tables", "verify"):
            one.add_argument("folder", metavar="FOLDER")
    for name, own in make_parsers().items():
        verbs.add_parser(name, help=own.description, parents=[own], add_help=False)
    for one in (parser, *verbs.choices.values()):
        for action in one._actions:  # argparse has no other list of them
            flag = action.option_strings[0].removeprefix("--") if action.option_strings else ""
            if flag in known:
                action.complete = completer(flag, known[flag])
            elif action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY
            elif action.metavar in FILES:
                action.complete = shtab.FILE
    return parser


def script(shell: str) -> str:
    """The completion script of a shell. Raises UserError where the package shtab is missing."""
    if importlib.util.find_spec("shtab") is None:
        raise UserError("completion needs the package shtab: pip install shtab")
    import shtab

    if shell not in SHELLS:
        raise UserError(f"completion {shell!r}: choose {', '.join(SHELLS)}")
    return shtab.complete(whole_parser(names()), shell)
