"""The trackers that `--track` names, each by the documented calls of its package. Offline modes are
theirs: WANDB_MODE, MLFLOW_TRACKING_URI and the like are left as the user has set them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from PIL import Image

PROJECT = "t2i-backdoor-bench"  # where the user names no project or experiment


@dataclass(frozen=True)
class About:
    """The run that a tracker is told of: its folder, which names it, and how it measures."""

    folder: Path
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.resolve().name


class Tracker(Protocol):
    """What a run tells. A name has letters, digits and "_-./" alone (`tag`)."""

    def numbers(self, name: str, values: Mapping[str, float], step: int) -> None:
        """The numbers of a finished cell; `step` cells of the run are finished."""

    def curve(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        """The losses of a training: step and loss."""

    def table(self, path: Path) -> None:
        """A table as CSV, with the same as Markdown beside it."""

    def picture(self, path: Path) -> None:
        """A PNG."""

    def end(self, whole: bool) -> None:
        """The run has ended; `whole`: with all of its cells."""


def tag(text: str) -> str:
    """A text as a part of a name that every tracker takes."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)


class TensorBoard:
    """Event files in OUT/tensorboard."""

    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(log_dir=str(about.folder / "tensorboard"))
        rows = [f"| {name} | {value} |" for name, value in about.settings.items()]
        self.writer.add_text("settings", "\n".join(["| | |", "|---|---|", *rows]))

    def numbers(self, name: str, values: Mapping[str, float], step: int) -> None:
        for metric, value in values.items():
            self.writer.add_scalar(f"{name}/{metric}", value, step)
        self.writer.flush()

    def curve(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        for step, value in points:
            self.writer.add_scalar(name, value, step)

    def table(self, path: Path) -> None:
        self.writer.add_text(path.stem, path.with_suffix(".md").read_text(encoding="utf-8"))

    def picture(self, path: Path) -> None:
        with Image.open(path) as image:
            self.writer.add_image(path.stem, np.asarray(image.convert("RGB")), dataformats="HWC")

    def end(self, whole: bool) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases, in the project of WANDB_PROJECT or else `PROJECT`."""

    def __init__(self, about: About) -> None:
        import wandb

        self.package = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=about.name,
            dir=str(about.folder),
            config=dict(about.settings),
        )
        self.run.define_metric("cells_done")
        self.run.define_metric("cells/*", step_metric="cells_done")

    def numbers(self, name: str, values: Mapping[str, float], step: int) -> None:
        named = {f"{name}/{metric}": value for metric, value in values.items()}
        self.run.log(named | {"cells_done": step})

    def curve(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        self.run.define_metric(name, step_metric=f"{name}.step")
        for step, value in points:
            self.run.log({name: value, f"{name}.step": step})

    def table(self, path: Path) -> None:
        self.run.log({path.stem: self.package.Table(dataframe=pd.read_csv(path))})

    def picture(self, path: Path) -> None:
        self.run.log({path.stem: self.package.Image(str(path))})

    def end(self, whole: bool) -> None:
        self.run.finish(exit_code=0 if whole else 1)


class MLflow:
    """A run of MLflow, in the experiment of MLFLOW_EXPERIMENT_NAME or else `PROJECT`."""

    def __init__(self, about: About) -> None:
        import mlflow

        self.package = mlflow
        if not (os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("MLFLOW_EXPERIMENT_ID")):
            mlflow.set_experiment(PROJECT)
        nested = mlflow.active_run() is not None  # such as a notebook's
        mlflow.start_run(run_name=about.name, nested=nested)
        mlflow.log_dict(dict(about.settings), "settings.json")

    def numbers(self, name: str, values: Mapping[str, float], step: int) -> None:
        named = {f"{name}/{metric}": value for metric, value in values.items()}
        self.package.log_metrics(named, step=step)

    def curve(self, name: str, points: Sequence[tuple[int, float]]) -> None:
        for step, value in points:
            self.package.log_metric(name, value, step=step)

    def table(self, path: Path) -> None:
        self.package.log_artifact(str(path), artifact_path="tables")

    def picture(self, path: Path) -> None:
        self.package.log_artifact(str(path), artifact_path="pictures")

    def end(self, whole: bool) -> None:
        self.package.end_run(status="FINISHED" if whole else "FAILED")


KINDS: dict[str, Callable[[About], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
}
