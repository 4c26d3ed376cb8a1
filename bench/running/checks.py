"""Settings that the plan refuses before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from t2i_backdoor_bench.contract import UserError
from t2i_backdoor_bench.models.catalog import MEMORY, Base, find_base
from t2i_backdoor_bench.models.trust import layout_of, locate, read_json
from t2i_backdoor_bench.running.method import Method
from t2i_backdoor_bench.running.scales import DTYPES
from t2i_backdoor_bench.running.settings import Config
from t2i_backdoor_bench.training.parameters import check_training

SIZES = (  # of networks, as their configurations have them
    *("in_channels", "block_out_channels", "cross_attention_dim", "transformer_layers_per_block"),
    *("num_layers", "num_attention_heads", "attention_head_dim", "joint_attention_dim"),
    *("hidden_size", "num_hidden_layers", "vocab_size", "d_model"),
)


def check_settings(config: Config) -> None:
    """Raise UserError for a precision, a way to save memory or a number of prompts that does not
    exist or does not suffice."""
    size = config.size
    if config.dtype not in DTYPES:
        raise UserError(f"unknown dtype {config.dtype!r}; known: {', '.join(DTYPES)}")
    if unknown := set(config.memory) - set(MEMORY):
        raise UserError(f"--memory {', '.join(sorted(unknown))} is not one of {', '.join(MEMORY)}")
    if "adam8bit" in config.memory:
        check_training(config.device, adam8bit=True)
    if size.n < 2:
        given = f"--limit {config.limit:g}" if size.first_of else f"--n {size.n}"
        raise UserError(f"{given} is too few prompts; give at least 2")
    if config.probe and not size.moved:
        raise UserError(
            f"--probe draws as many pictures as there are changed triggers, and --scale {size.name}"
            " has none; take quick or full"
        )


def precision(config: Config, base: Base) -> str:
    """What "auto" means: half precision for models of others on CUDA, as their methods run for
    hours, and float32 for all else."""
    if config.dtype != "auto":
        return config.dtype
    return "bfloat16" if base.settings == "sd" and config.device.startswith("cuda") else "float32"


def check_fid(config: Config, base: Base, metrics: Sequence[str]) -> str:
    """FID's covariance is singular with fewer images than features. Asked for by name, that is an
    error. In the default selection the metric stays empty; the line that says so for an --n of the
    user, or ""."""
    fids = [m for m in metrics if m == "fid" or m.startswith("fid_")]
    by_default = bool({"all", ""} & set((config.metrics or "").split(",")))
    if not fids or (by_default and config.n is None and not config.size.first_of):
        return ""
    dimension = feature_dimension(base.scorer)
    if config.size.n >= dimension:
        return ""
    why = (
        f"{fids[0]} needs at least {dimension} prompts (the dimension of the scorer's features),"
        f" and n is {config.size.n}"
    )
    if by_default:
        return f"left out: {why}; see kid"
    rest = ",".join(m for m in metrics if m not in fids)
    raise UserError(f"{why}: give --n {dimension}, or leave it out with --metrics {rest or 'kid'}")


def feature_dimension(spec: str) -> int:
    """Dimension of the scorer's image features, read from its configuration without its weights."""
    config = Path(spec) / "open_clip_config.json"
    if config.is_file():
        found = read_json(config)
        inner = found.get("model_cfg") if isinstance(found, dict) else None
        dimension = inner.get("embed_dim") if isinstance(inner, dict) else None
        if type(dimension) is not int or dimension < 1:
            raise UserError(f"{config} is no configuration of open_clip: it lacks embed_dim")
        return dimension
    import open_clip

    model = open_clip.get_model_config(spec.split(":")[0])
    return int(model["embed_dim"]) if model else 0


def check_other_base(base: Base, metrics: Mapping[str, Method]) -> None:
    """Raise UserError for another base, named by an option of a metric, on which the adapter of an
    attack on `base` cannot be put: one of another family, or with networks of another size."""
    name = metrics["asr_other_base"].instance.base if "asr_other_base" in metrics else ""
    if not name:
        return
    folders = [locate(found.source) for found in (base, find_base(name))]
    mine, theirs = (layout_of(folder) for folder in folders)
    unlike = "" if mine == theirs else f"it is {theirs.family}, and the base is {mine.family}"
    for part in () if unlike else mine.edited:
        own, other = (read_json(folder / part / "config.json") for folder in folders)
        known = [k for k in SIZES if k in own and k in other]
        if wrong := [k for k in known if own[k] != other[k]]:
            unlike = f"its {part} has {wrong[0]} {other[wrong[0]]}, and the base's {own[wrong[0]]}"
    if unlike:
        raise UserError(
            f"asr_other_base.base={name}: {unlike}; name a base with the shapes of the run's own"
        )
