"""The step functions beside that of step.py: systems of others that are no row of its table.

All have one signature, (student, teacher or None for labels only, batch, method, context), and return terms as
`step.train_step` does.
"""

from typing import Callable

from torch import Tensor

from . import imas, psmt, u2pl

# By method.algorithm; `consistency` is step.train_step.
ALGORITHMS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "imas": imas.train_step,
    "psmt": psmt.train_step,
    "u2pl": u2pl.train_step,
}
