"""The verbs whose flags are their own, and no settings of a run; they take the arguments after them
and return the exit status. And what `verify` and a run that is repeated do. Each imports what it
needs when it is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2i_backdoor_bench.contract.errors import no_exit
from t2i_backdoor_bench.contract.printable import visible
from t2i_backdoor_bench.flags import make_parsers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from t2i_backdoor_bench.contract import Data
    from t2i_backdoor_bench.running.settings import Config
    from t2i_backdoor_bench.store.folder import Store


def score(arguments: list[str]) -> int:
    """`running.score_folder` of a folder of pictures: a table, and scores.csv. Raises UserError."""
    choices = vars(make_parsers()["score"].parse_args(arguments))
    out = choices.pop("out") or Path("results") / f"score-{choices['folder'].resolve().name}"
    from t2i_backdoor_bench.report.score_table import publish_scores
    from t2i_backdoor_bench.running.score_folder import score_folder

    def say(text: str) -> None:
        print(visible(text), file=sys.stderr)

    with no_exit():
        publish_scores(score_folder(say=say, **choices), out)
    return 0


def export(arguments: list[str]) -> int:
    """`running.export` of a cell of a run folder. Nothing that a stranger's run.json names is asked
    of the hub. Raises UserError."""
    flags = make_parsers()["export"].parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from t2i_backdoor_bench.running.export import export as write

    with no_exit():
        return write(flags.cell, flags.folder, flags.out, flags.form, flags.rank)


def convert(arguments: list[str]) -> int:
    """`models.convert` of a file or folder. Raises UserError."""
    flags = make_parsers()["convert"].parse_args(arguments)
    from t2i_backdoor_bench.models.convert import convert as write

    with no_exit():
        return write(flags.source, flags.target, lambda text: print(visible(text)))


def vet(arguments: list[str]) -> int:
    """`running.vet` of a model, and `running.vet_repair` if asked. The exit status is that of the
    verdict. Raises UserError."""
    flags = vars(make_parsers()["vet"].parse_args(arguments))
    from t2i_backdoor_bench.report.html.vet import publish, publish_repair
    from t2i_backdoor_bench.report.publish import publish as publish_run
    from t2i_backdoor_bench.running import vet as vetting
    from t2i_backdoor_bench.running import vet_repair

    def say(text: str) -> None:
        print(visible(text), file=sys.stderr)

    out = flags.pop("out") or Path("results") / f"vet-{Path(flags['model']).resolve().name}"
    names = flags.pop("repair")
    given = vetting.texts_of(flags.pop("trigger"), flags.pop("triggers"))
    asked = vetting.Asked(out=out, triggers=given, log=flags.pop("prompts"), **flags)
    with no_exit():
        at = vetting.ready(asked, say)
        wanted = None if names is None else vet_repair.wanted(at, names)
        found = vetting.vet(at, say)
        publish(found.words, found.pictures, found.prompts, out)
        if wanted is not None:
            made = vet_repair.repair(
                at, found, wanted, say, lambda store: publish_run(store, show=False)
            )
            words = found.words | {"repair": made.words}
            publish_repair(words, found.pictures, found.prompts, out, made.pictures)
    return vetting.STATUS[found.words["verdict"]]


def site(arguments: list[str]) -> int:
    """`report.site` of run folders. Raises UserError."""
    flags = make_parsers()["site"].parse_args(arguments)
    from t2i_backdoor_bench.report.site.build import write_site

    return write_site(flags.out, flags.folders, known=flags.signers)


def submit(arguments: list[str]) -> int:
    """`running.submission` of a run folder. Raises UserError."""
    flags = make_parsers()["submit"].parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"
    from t2i_backdoor_bench.report import claims
    from t2i_backdoor_bench.report.changed import changed_files
    from t2i_backdoor_bench.report.publish import rewrite
    from t2i_backdoor_bench.running import submission

    numbers = claims.read_reported(flags.reported) if flags.reported else {}
    out = flags.out or flags.folder.with_name(f"{flags.folder.resolve().name}.submission.tar.gz")
    writers = submission.Writers(
        changed_files, rewrite, lambda store: claims.claims(store, numbers)
    )
    maker = submission.Maker(flags.by, flags.title, flags.contact)
    with no_exit():
        return submission.submit(flags.folder, out, maker, writers, flags.sign)


def accept(arguments: list[str]) -> int:
    """`running.acceptance` of an archive that `submit` wrote. Raises UserError."""
    flags = make_parsers()["accept"].parse_args(arguments)
    if not flags.fetch:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from t2i_backdoor_bench.report.changed import changed_files
    from t2i_backdoor_bench.running import acceptance

    with no_exit():
        return acceptance.accept(
            flags.archive, flags.out, flags.by, changed_files, flags.sample, flags.fetch, flags.sign
        )


def clean(arguments: list[str]) -> int:
    """`store.freeing`: what a run folder may lose, listed or deleted. Raises UserError."""
    flags = make_parsers()["clean"].parse_args(arguments)
    from t2i_backdoor_bench.store import freeing

    kinds = None if flags.delete is None else freeing.chosen(flags.delete)
    store = freeing.open_ours(flags.folder)
    if kinds is None:
        lines = freeing.listed(store)
    else:
        freed = freeing.text_of(freeing.delete(store, kinds))
        lines = [f"{flags.folder}: {freed} freed ({', '.join(kinds)})"]
    print("\n".join(visible(line) for line in lines))
    return 0


def pack(arguments: list[str]) -> int:
    """`store.packing`: the records of a run folder as one compressed file. Raises UserError."""
    flags = make_parsers()["pack"].parse_args(arguments)
    from t2i_backdoor_bench.store import packing

    print(visible((packing.unpack if flags.undo else packing.pack)(flags.folder)))
    return 0


def completion(arguments: list[str]) -> int:
    """`completion.script` of a shell. Raises UserError."""
    shell = make_parsers()["completion"].parse_args(arguments).shell
    from t2i_backdoor_bench.completion import script

    print(script(shell))
    return 0


def push(arguments: list[str]) -> int:
    """`running.push` of a model or of results. Raises UserError."""
    flags = make_parsers()["push"].parse_args(arguments)
    from t2i_backdoor_bench.report.publish import rewrite
    from t2i_backdoor_bench.report.rows import long_rows, rows
    from t2i_backdoor_bench.running import push as pushing
    from t2i_backdoor_bench.store.records import stored_records

    def tables(store: Store) -> dict[str, list[dict[str, Any]]]:
        records = stored_records(store)
        return {"table": rows(records), "rows": long_rows(records)}

    with no_exit():
        writers = pushing.Writers(rewrite, tables)
        return pushing.push(flags.what, flags.repo, flags.out, flags.public, writers)


def shown_again(config: Config, show: bool = True) -> bool:
    """Whether this command has made everything already; then its table is printed once more."""
    from t2i_backdoor_bench.running.repeated import finished

    found = finished(config)
    if found is None:
        return False
    from t2i_backdoor_bench.report.printed import print_results
    from t2i_backdoor_bench.store.records import stored_records

    store, written = found
    if show:
        print_results(stored_records(store), store.root, written, config.style)
    return True


def several_bases(
    configs: Mapping[str, Config],
    run: Callable[[Config], int],
    validate: bool = False,
    tables_only: bool = False,
    data: Data | None = None,
    show: bool = True,
) -> int:
    """What is asked of a run, on each of several bases, and then their comparison, in the folder
    above theirs. All bases are checked before the first run. `data` are what `run` takes. Raises
    UserError."""
    from t2i_backdoor_bench.running import several_bases as several

    if validate:
        from t2i_backdoor_bench.running.validate import validate as check

        return max([check(config) for config in configs.values()])
    if tables_only:
        from t2i_backdoor_bench.report.publish import rebuild

        status = max([rebuild(config.folder, config.style) for config in configs.values()])
    else:
        again = {name for name, one in configs.items() if not data and shown_again(one, show)}
        left = {name: config for name, config in configs.items() if name not in again}
        several.check_each(left, data)
        status = several.run_each(left, run)
    if status in several.STOPPED:
        return status
    from t2i_backdoor_bench.report.bases import publish_bases
    from t2i_backdoor_bench.store.folder import Store
    from t2i_backdoor_bench.store.records import stored_records

    runs = {name: stored_records(Store(c.folder, read_only=True)) for name, c in configs.items()}
    publish_bases(runs, next(iter(configs.values())).folder.parent, show)
    return status


def verify(folder: Path, all: bool, fetch: bool) -> int:
    """`running.verify` of a run folder. Unless it may `fetch`, nothing that a stranger's run.json
    names is asked of the hub: the libraries read this when they are imported."""
    if not fetch:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from t2i_backdoor_bench.report.changed import changed_files
    from t2i_backdoor_bench.running.verify import verify as check

    return check(folder, changed_files, every=all, fetch=fetch)


APART = {
    "score": score,
    "export": export,
    "convert": convert,
    "site": site,
    "submit": submit,
    "accept": accept,
    "clean": clean,
    "pack": pack,
    "completion": completion,
    "push": push,
    "vet": vet,
}
