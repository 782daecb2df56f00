"""Training: who decides, the loop of a stage, the learner, weights, checkpoints.

`rlcurric.train` is this package and, as the public name of the package promises, a function too: calling it is calling
`rlcurric.train.session.train`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from rlcurric.train.session import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
