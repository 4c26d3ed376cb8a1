"""How a fuzzer changes a file: its bytes, the values of its JSON, or the header of its tensors."""

from __future__ import annotations

import json
import random
from pathlib import Path

from t2i_backdoor_bench.contract.hashing import digest

STRANGE = [
    *(None, True, -1, 0, 0.5, 2**53, 10**12, 1e300, "", "x", "../x", "owner/model", "a\0b"),
    *("\u202e\x1b[2J", "<script>", "=1+1", [], {}, [[]], [1] * 50, {"a": {"b": 1}}, "NaN"),
]
LITERALS = [b"NaN", b"1e999", b"-Infinity", b"\xff", b"\x00", b'"', b"{", b"[" * 2000, b"\\ud800"]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with some bytes changed, cut, doubled, or put in."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at, kind = rng.randrange(len(found) + 1), rng.randrange(5)
        if kind == 0 and found:
            found[min(at, len(found) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at : at + rng.randint(1, 20)]
        elif kind == 2:
            found[at:at] = found[at : at + rng.randint(1, 50)]
        elif kind == 3:
            found[at : at + rng.randint(0, 4)] = rng.choice(LITERALS)
        else:
            del found[at:]
    return bytes(found)


def changed(value: object, rng: random.Random) -> object:
    """A JSON value with something strange in one to three places."""
    for _ in range(rng.randint(1, 3)):
        places: list[tuple] = []
        waiting = [value] if isinstance(value, (dict, list)) else []
        while waiting:
            inner = waiting.pop()
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))  # type: ignore[arg-type]
            for key in keys:
                places.append((inner, key))
                if isinstance(inner[key], (dict, list)):  # type: ignore[index]
                    waiting.append(inner[key])  # type: ignore[index]
        if not places:
            return value
        inner, key = rng.choice(places)
        if rng.random() < 0.15:
            del inner[key]
        elif isinstance(inner, dict) and rng.random() < 0.15:
            inner[rng.choice(["x", "auto_map", "hf_model_name", "__class__", ""])] = inner[key]
        else:
            inner[key] = json.loads(json.dumps(rng.choice(STRANGE)))
    return value


def mutate_text(path: Path, rng: random.Random) -> None:
    path.write_bytes(mutated(path.read_bytes(), rng))


def mutate_json(path: Path, rng: random.Random) -> None:
    """Change a JSON file: its bytes, or its values, in a record with a checksum that fits."""
    data = path.read_bytes()
    if rng.random() < 0.4:
        path.write_bytes(mutated(data, rng))
        return
    value = json.loads(data)
    if isinstance(value, dict) and set(value) == {"sha256", "payload"}:
        value["payload"] = changed(value["payload"], rng)
        if rng.random() < 0.8:
            value["sha256"] = digest(value["payload"])
    else:
        value = changed(value, rng)
    path.write_text(json.dumps(value))


def mutate_header(path: Path, rng: random.Random) -> None:
    """Change the header of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.5:
        header = mutated(header, rng)
    else:
        header = json.dumps(changed(json.loads(header), rng)).encode()
    length = len(header) if rng.random() < 0.8 else rng.choice([0, 2**63, 2**31, length])
    path.write_bytes(length.to_bytes(8, "little") + header + rest)
