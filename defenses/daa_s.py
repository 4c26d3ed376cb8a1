from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.integrate import RK45
from torch import Tensor

from t2i_backdoor_bench.contract import (
    DefenderView,
    Difference,
    UserError,
    option,
    register_defense,
)
from t2i_backdoor_bench.detecting.attention_over_time import SIDES, attention_over_time, batches
from t2i_backdoor_bench.detecting.screening import Detector, calibrated, screened
from t2i_backdoor_bench.models.model import T2IModel

SOLVED = 7  # steps of the solver that the released code sums
READ = 4  # steps of the drawing that are read for them; the seven end before the second
DIFFERS = (
    Difference(
        what="state of the first steps",
        released="as here; the seven steps end at t = 0.63 to 0.74, before the second map is read",
        here="as released (`stop=solver`); `stop=horizon` solves the equation exactly up to a time",
        why="measured on the embedded base, either score correlates above 0.998 with a number that"
        " has no dynamics: the mean norm of the other tokens' maps at the first step, minus that of"
        " the end token's",
    ),
    Difference(
        what="solver steps that are summed",
        released="0 to 6 in the script that detects; 1 to 5 in `Visualization_DAA.ipynb`",
        here="0 to 6",
        why="the released files do not agree; the script is what detects",
    ),
    SIDES,
    calibrated(released="minus the score < 0.0015"),
)


@register_defense(
    "daa_s",
    needs=("clean_prompts",),
    groups=("detection",),
    screens=True,
    version=1,
    paper="wang2025dynamic",
    differs=DIFFERS,
)
@dataclass
class DAAS(Detector):
    """Dynamic attention analysis by a state equation: a detector (Wang et al., TPAMI 2025).

    arXiv 2504.20518. Every token but the start token is a node with state x_i(0) = ||M_i(0)||_F, M
    its cross-attention map. dx/dt = F x + c A(t) x. A(t) is minus the Laplacian of the graph whose
    weights are the similarities of the maps at step floor(t): (max + min - d_ij) / (max + min) of
    their Frobenius distances d. F is diagonal: -`decay`, and -`decay_end` for the end token. Score:
    the change of the end token's state minus the mean change of the others; the end token of a
    triggered prompt falls more slowly. Prompts that score above the 95th percentile of the
    defender's clean prompts are refused.

    The released code sums the first seven steps of an adaptive Runge-Kutta solver, which is less
    than one step of the drawing: the maps of later steps have no part in it. The end token's state
    then has fallen to nearly nothing, so that the score is nearly a static number of the first
    step, mean ||M_i(0)|| - ||M_end(0)||. What this detector measures are no dynamics.
    """

    walk: int = option(50, low=1, source="released", help="steps of a whole drawing")
    stop: str = option(
        "solver",
        choices=("solver", "horizon"),
        source="released",
        help="where the states end: behind seven steps of an adaptive solver, or at `horizon`",
    )
    horizon: float = option(
        1.0, above=0, help="for stop=horizon: time, in steps, until which the states evolve"
    )
    decay: float = option(1.0, low=0, source="released", help="how fast the states fall")
    decay_end: float = option(
        10.0, low=0, source="released", help="how fast the end token's state falls"
    )
    coupling: float = option(1.0, low=0, source="released", help="c")
    size: int = option(8, sd=16, low=1, source="released", help="side of the maps")

    def check(self) -> None:
        if self.stop == "horizon" and self.horizon > self.walk:
            raise UserError(
                f"daa_s horizon {self.horizon:g} is beyond the {self.walk} steps of the drawing:"
                " give a smaller horizon, or a longer walk"
            )

    def apply(self, model: T2IModel, view: DefenderView, seed: int) -> T2IModel:
        return screened(
            model,
            partial(score, model, options=self, seed=seed),
            view.first(self.prompts),
            self.rate,
        )


def score(model: T2IModel, prompts: list[str], options: DAAS, seed: int) -> np.ndarray:
    """The relative change of the end token's state, for each prompt: float (n,)."""
    solver = options.stop == "solver"
    found, stop = [], min(READ, options.walk) if solver else int(np.ceil(options.horizon))
    for part in batches(prompts, model.batch):
        maps, lengths = attention_over_time(
            model, part, seed, options.walk, options.size, stop=stop
        )
        for i, n in enumerate(lengths):
            own = maps[:, i, 1:n].double().cpu()
            rates = (options.decay, options.decay_end, options.coupling)
            before, after = solve(own, *rates) if solver else evolve(own, options.horizon, *rates)
            change = after - before
            found.append(float(change[-1] - (change[:-1].mean() if len(change) > 1 else 0)))
    return np.array(found)


def solve(maps: Tensor, decay: float, decay_end: float, coupling: float) -> tuple[Tensor, Tensor]:
    """As `evolve`, behind `SOLVED` steps of SciPy's RK45 with its own tolerances, or at the end of
    the maps where that comes first."""
    own = np.full(maps.shape[1], -decay)
    own[-1] = -decay_end
    matrices = [np.diag(own) + coupling * flow(m).numpy() for m in maps]
    before = torch.linalg.matrix_norm(maps[0])
    last = len(matrices) - 1
    solver = RK45(
        lambda t, x: matrices[min(int(t), last)] @ x, 0.0, before.numpy(), t_bound=len(matrices)
    )
    for _ in range(SOLVED):
        if solver.status == "running":
            solver.step()
    return before, torch.from_numpy(solver.y)


def evolve(
    maps: Tensor, horizon: float, decay: float, decay_end: float, coupling: float
) -> tuple[Tensor, Tensor]:
    """States (nodes,) of the graph at time 0 and at `horizon`, for maps (steps, nodes, size, size),
    the end token's last. A(t) is constant within a step: matrix exponentials are exact."""
    own = torch.full((maps.shape[1],), -decay, dtype=maps.dtype, device=maps.device)
    own[-1] = -decay_end
    before = state = torch.linalg.matrix_norm(maps[0])
    for t in range(len(maps)):
        length = min(1.0, horizon - t)
        state = torch.linalg.matrix_exp((own.diag() + coupling * flow(maps[t])) * length) @ state
    return before, state


def flow(maps: Tensor) -> Tensor:
    """A, minus the Laplacian of the similarity graph of maps (nodes, size, size): (nodes, nodes),
    columns sum to 0."""
    distance = torch.cdist(
        maps.flatten(1)[None], maps.flatten(1)[None], compute_mode="donot_use_mm_for_euclid_dist"
    )[0]
    ends = distance.max() + distance.min()
    weights = (ends - distance) / ends if ends > 0 else torch.ones_like(distance)
    weights = weights - weights.diag().diag()
    return weights - weights.sum(0).diag()
