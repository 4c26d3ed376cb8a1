"""What a run folder says of who made it, and of who made its cells again.

`claim.json` is written by the maker's `submit`, `accepted.json` by the `accept` of somebody else.
The second names the digest of all records: where those have changed since, it counts for nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract.hashing import digest
from t2i_backdoor_bench.store.folder import Store
from t2i_backdoor_bench.store.forms import each, name, obj, text, whole
from t2i_backdoor_bench.store.signatures import check

CLAIM = obj(
    required=("title", "by", "records"),
    title=text,
    by=text,
    contact=text,
    licence=text,
    records=name,
    made=text,
)
ACCEPTED = obj(
    required=("by", "date", "records", "cells", "agreed"),
    by=text,
    date=text,
    records=name,
    cells=each(text),
    agreed=whole,
    of=whole,
    differences=each(text),
)
REPORTED, VERIFIED = "reported", "verified"


@dataclass(frozen=True)
class Standing:
    """`title` and `by` are the maker's; `status` is VERIFIED where somebody else made cells again
    and found the same, and `text` says it in words. `signed` says whose key signed the claim."""

    title: str = ""
    by: str = ""
    status: str = REPORTED
    text: str = ""
    signed: str = ""


def records_digest(store: Store) -> str:
    """One digest of all files of records in the folder."""
    texts = {key: store.record_bytes(key) or b"" for key in store.record_keys()}
    return digest({f"{key}.json": hashlib.sha256(text).hexdigest() for key, text in texts.items()})


def standing(store: Store, known: Path | None = None) -> Standing:
    """What the folder says of itself and of others. `known` lists the keys of people, by name, as
    in `store.signatures.check`."""
    claim = store.read_record("claim", CLAIM) or {}
    accepted = store.read_record("accepted", ACCEPTED) or {}
    found = _standing(store, claim, accepted, known)
    signature = check(store.path("claim.json"), known) if claim else None
    return replace(found, signed=signature.text) if signature else found


def _standing(
    store: Store, claim: Mapping[str, Any], accepted: Mapping[str, Any], known: Path | None
) -> Standing:
    title, by = claim.get("title", ""), claim.get("by", "")
    if not accepted:
        return Standing(title, by)
    signature = check(store.path("accepted.json"), known)
    if signature and not signature.valid and not signature.trouble:
        text = f"{accepted['by']} is said to have verified it, but {signature.text}"
        return Standing(title, by, REPORTED, text)
    if accepted["records"] != records_digest(store):
        text = "its records have changed since they were verified"
        return Standing(title, by, REPORTED, text)
    cells = len(accepted["cells"])
    if accepted["agreed"] < cells or not cells:
        text = (
            f"{accepted['by']} made {cells} of its cells again on {accepted['date']}:"
            f" {cells - accepted['agreed']} differ"
        )
        return Standing(title, by, REPORTED, text)
    text = (
        f"by {accepted['by']} on {accepted['date']}: {cells} of {accepted.get('of', 0) or '?'}"
        " cells, chosen at random, made again with the same numbers"
    )
    text += f"; {signature.text}" if signature else ""
    return Standing(title, by, VERIFIED, text)
