"""Training: who decides, the loop of a stage, the learner, weights, checkpoints.

`rlcurric.train` is this package and, as the public name of the package promises, a function too: calling it is calling
`rlcurric.train.session.train`, whose signature and description stand in for this text in `help(rlcurric.train)`.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

from rlcurric.train.session import train  # torch comes with its first call, not with this import

__all__ = ["train"]


class _Callable(ModuleType):
    __signature__ = inspect.signature(train)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return train(*args, **kwargs)


__doc__ = f"rlcurric.train{inspect.signature(train)}\n\n{inspect.getdoc(train)}"
sys.modules[__name__].__class__ = _Callable
