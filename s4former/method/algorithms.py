"""The step functions: that of step.py, and systems of others that are no row of its table.

All have one signature, (student, teacher or None for labels only, batch, method, context), and return terms as
`step.train_step` does.
"""

from typing import Callable

from torch import Tensor

from . import imas, psmt, step, u2pl

# By method.algorithm.
ALGORITHMS: dict[str, Callable[..., dict[str, Tensor]]] = {
    "consistency": step.train_step,
    "imas": imas.train_step,
    "psmt": psmt.train_step,
    "u2pl": u2pl.train_step,
}
