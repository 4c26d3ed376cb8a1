"""Settings that are short for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.running.setting_values import texts_of, value_of

SHORT = ("suspect", "trigger", "prompts")
SUSPECT, SUSPECT_METRICS = "suspect", "all,trigger_effect"


def spelled_out(given: dict[str, Any]) -> dict[str, Any]:
    """The settings with those that the short ones stand for. Raises UserError."""
    return _prompts(_suspect(given))


def _prompts(given: dict[str, Any]) -> dict[str, Any]:
    """`prompts`, a .txt with a prompt a line, as the data that it is."""
    prompts = given.pop("prompts", None)
    if prompts is None:
        return given
    if given.get("data"):
        raise UserError("--prompts is data without pictures: give it or --data, not both")
    path = value_of("prompts", prompts, Path)
    if path.suffix.casefold() != ".txt":
        raise UserError(f"--prompts {path} must be a .txt with a prompt a line")
    return given | {"data": str(path)}


def _suspect(given: dict[str, Any]) -> dict[str, Any]:
    """`suspect` and `trigger` as what they are short for."""
    suspect, trigger = given.pop("suspect", False), given.pop("trigger", None)
    if not isinstance(suspect, bool):
        raise UserError(f"suspect must be true or false, not {suspect!r}")
    if not suspect:
        if trigger is not None:
            raise UserError(
                "--trigger goes with --suspect; the trigger of an attack is an option, such as"
                " --set badt2i_pixel.trigger=WORD"
            )
        return given
    if "attacks" in given:
        raise UserError("--suspect takes the base as it is, without an attack: leave out --attacks")
    options = [f"{SUSPECT}.trigger={trigger}"] if trigger is not None else []
    return (
        {"metrics": SUSPECT_METRICS}
        | given
        | {"attacks": SUSPECT, "set": [*texts_of("set", given.get("set", ())), *options]}
    )
