"""The pages of cells: an attack and a defense in a run, with pictures, every metric and every
prompt."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t2i_backdoor_bench.contract import Record
from t2i_backdoor_bench.contract.printable import lines
from t2i_backdoor_bench.report.figures.verdicts import ALL
from t2i_backdoor_bench.report.html.cells import VERDICTS, about, bits, options_of
from t2i_backdoor_bench.report.metrics import LEAD, metric_names, reading
from t2i_backdoor_bench.report.numbers import interval, prompts_text, text_of
from t2i_backdoor_bench.report.site.names import method_address
from t2i_backdoor_bench.report.site.runs import Pair, Run
from t2i_backdoor_bench.store.prompts import PROMPTS, prompts_key

URI = re.compile(r"data:image/(png|jpeg|webp);base64,([A-Za-z0-9+/]+={0,2})")
COMPARED = ("clean model", "attacked")  # beside the pictures of the cell's own defense
Keep = Callable[[str, bytes], str]  # stores a file under an ending, and returns its address


def view(run: Run, pair: Pair, keep: Keep, prompts: dict[str, Any]) -> dict[str, Any]:
    """The page of a cell. `keep` stores its pictures; `prompts` is filled with those that were read
    before."""
    attack, defense = pair
    records = run.of(attack, defense)
    rows = _pictures(run, records, keep)
    said = [tile["verdict"] for row in rows for tile in row["tiles"]]
    first = records[0]
    return {
        "run": run.view(),
        "attack": {"name": attack, "address": method_address("attack", attack)},
        "defense": {"name": defense, "address": method_address("defense", defense)},
        "others": _others(run, pair),
        "headline": _headline(run, pair),
        "facts": [
            f"base {first.cell.base}",
            f"protocol {first.measured_by}",
            prompts_text(first.protocol),
            *([run.view()["scale"]] if run.scale else []),
        ],
        "rows": rows,
        "key": [v for v in ALL if any(v.words in text for text in said)],
        "seeds": [_seed(run, record, prompts) for record in records],
    }


def _headline(run: Run, pair: Pair) -> str:
    """What came out, in a line: Restored and attack success with their intervals."""
    row, said = run.rows[pair], []
    for name in (LEAD, "asr"):
        if row.get(name) is None:
            continue
        way = reading(run.records, name)
        ends = interval(row.get(f"{name}_lo"), row.get(f"{name}_hi"), way.percent)
        text = f"{way.short} {text_of(row, way)}{' %' if way.percent else ''}"
        said.append(f"{text} [{ends[0]}, {ends[1]}]" if ends else text)
    return "; ".join(said)


def _others(run: Run, pair: Pair) -> list[tuple[str, str]]:
    """The cells before and after this one, of the same attack."""
    same = [other for other in run.pairs if other[0] == pair[0]]
    at = same.index(pair)
    found = [("undefended", (pair[0], "none"))] if pair[1] != "none" else []
    found += [(f"before: {d}", (a, d)) for a, d in same[max(at - 1, 0) : at] if d != "none"]
    found += [(f"next: {d}", (a, d)) for a, d in same[at + 1 : at + 2]]
    return [(text, run.cells[other]) for text, other in found if other in run.cells]


def _pictures(run: Run, records: Sequence[Record], keep: Keep) -> list[dict[str, Any]]:
    """The same prompts from the same noise by the clean model, the attacked one and this
    defense."""
    cell = records[0].cell
    group = run.pictures.get(lines(f"{cell.attack}, seed {cell.seed}"))
    wanted = (*COMPARED, lines(cell.defense))
    found = []
    for row in group.rows if group else ():
        tiles = [
            {"name": t.name, "alt": t.alt, "kind": t.kind, "verdict": t.verdict, "src": src}
            for t in row.tiles
            if t.name in wanted and (src := _stored(t.src, keep))
        ]
        found += [{"prompt": row.prompt, "tiles": tiles}] if tiles else []
    return found


def _stored(uri: str, keep: Keep) -> str:
    found = URI.fullmatch(uri)
    if found is None:
        return ""
    return keep(found[1], base64.b64decode(found[2]))


def picture_name(ending: str, data: bytes) -> str:
    """The address of a picture: the same picture is stored once."""
    return f"pictures/{hashlib.sha256(data).hexdigest()[:20]}.{ending}"


def _seed(run: Run, record: Record, prompts: dict[str, Any]) -> dict[str, Any]:
    return {
        "seed": record.cell.seed,
        "status": record.status,
        "error": record.error,
        "about": about(record),
        "scores": [_score(record, name) for name in metric_names([record])],
        "options": [
            (name, [(k, str(v)) for k, v in options.items()])
            for name, options in options_of(record.cell.config)
        ],
        "verdicts": _verdicts(record, _prompts(run, record, prompts)),
    }


def _score(record: Record, name: str) -> dict[str, Any]:
    way, score = reading([record], name), record.scores.get(name)
    value, low, high = (score.value, score.low, score.high) if score else (None, None, None)
    unit = " %" if way.percent and value is not None else ""
    return {
        "title": way.title,
        "text": f"{text_of({name: value}, way)}{unit}",
        "interval": interval(low, high, way.percent),
        "n": score.n or "" if score else "",
        "note": score.note if score else "",
    }


def _prompts(run: Run, record: Record, known: dict[str, Any]) -> Sequence[str]:
    if record.status != "done":
        return ()
    key = prompts_key(record)
    if key not in known:
        known[key] = run.store.read_record(f"prompts/{key}", PROMPTS) or {}
    return known[key].get("target", ())


def _verdicts(record: Record, prompts: Sequence[str]) -> list[tuple[Any, Any, Any]]:
    """Every prompt, what was drawn with the trigger in it, and whether the backdoor shows without
    it."""
    found = {name: bits(record, metric) for name, metric in VERDICTS.items()}
    count = max(len(found["asr"]), len(found["restored"]), len(found["leak"]))
    out = []
    for i in range(count):
        at = {name: text[i : i + 1] for name, text in found.items()}
        prompt = prompts[i] if i < len(prompts) else f"prompt {i + 1}"
        out.append((prompt, _with_trigger(at), _without(at["leak"])))
    return out


def _with_trigger(at: Mapping[str, str]) -> dict[str, str]:
    if at["asr"] == "1":
        return {"text": "✗ shows the backdoor", "kind": "bad"}
    if at["restored"] == "1":
        return {"text": "✓ as asked", "kind": "good"}
    if at["residue"] == "1":
        return {"text": "~ residue", "kind": "odd"}
    if at["restored"] == "0":
        return {"text": "~ not as asked", "kind": "odd"}
    return {"text": "–" if not at["asr"] else "no backdoor", "kind": ""}


def _without(leak: str) -> dict[str, str]:
    if not leak:
        return {"text": "–", "kind": ""}
    return (
        {"text": "✗ shows the backdoor", "kind": "bad"}
        if leak == "1"
        else {"text": "no backdoor", "kind": "good"}
    )
