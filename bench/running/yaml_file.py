"""Settings as a YAML file: read for `--config`, and written as the file that repeats a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.running.settings import FIELDS, Config

# not a part of what repeats a run, which names its controls among its defenses
ONCE = ("fresh", "renew", "time-limit", "track", "controls")


MOST_BYTES, DEEPEST = 1_000_000, 20  # of a file of settings, and levels in it


class StrictLoader(yaml.SafeLoader):
    """safe_load that refuses a key which is given twice, and aliases: a few of them stand for
    billions of values."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if self.check_event(yaml.AliasEvent):
            raise UserError(f"line {line}: *{event.anchor} is an alias; write the value itself")
        if self.depth > DEEPEST:
            raise UserError(f"line {line}: it is nested too deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _mapping(loader: StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = next((str(k) for i, k in enumerate(keys) if k in keys[:i]), None)
    if twice is not None:
        raise UserError(f"line {node.start_mark.line + 1}: {twice} is given twice")
    return loader.construct_mapping(node, deep=True)


StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a file, with the names of the flags. Raises UserError, naming the file."""
    try:
        if not path.is_file():
            raise OSError(0, "there is no such file" if not path.exists() else "it is no file")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"it has more than {MOST_BYTES:,} bytes")
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)  # a SafeLoader
    except OSError as error:
        raise UserError(f"cannot read --config {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, UserError) as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        where = f"line {mark.line + 1}: {error.problem}" if mark else str(error)
        raise UserError(f"--config {path} is not YAML that can be used: {where}") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
        raise UserError(
            f"--config {path} must hold names and values, such as 'attacks: badt2i_pixel'"
        )
    return found


def to_yaml(config: Config, resolved: Mapping[str, Any]) -> str:
    """The file that repeats a run: what was set, with the `resolved` names and seeds instead of
    groups and defaults."""
    found: dict[str, Any] = {}
    for name, field in FIELDS.items():
        value = resolved.get(name, vars(config)[field])
        if name == "scale":
            value = value.name
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        if name not in ONCE and not (value is None or value is False or value in ([], "")):
            found[name] = value
    if found.get("set"):
        found["set"] = {
            text.partition("=")[0].strip(): text.partition("=")[2].strip() for text in found["set"]
        }
    head = "# python run_bench.py --config run.yaml\n"
    return head + yaml.safe_dump(
        found, sort_keys=False, allow_unicode=False, width=120, default_flow_style=None
    )
