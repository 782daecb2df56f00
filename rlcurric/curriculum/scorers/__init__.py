"""Which of the candidate prompts are worth asking for: posteriors, histories, targets, predictions, variants."""

from rlcurric.curriculum.scorers.base import ScorerBase
from rlcurric.curriculum.scorers.history import Greso, Kimi
from rlcurric.curriculum.scorers.mix import MixScorer
from rlcurric.curriculum.scorers.posterior import BetaPosterior, Learnability, Mopps
from rlcurric.curriculum.scorers.target import AdaRft
from rlcurric.curriculum.scorers.value import Pcl
from rlcurric.curriculum.scorers.variants import Variants

__all__ = [
    "AdaRft",
    "BetaPosterior",
    "Greso",
    "Kimi",
    "Learnability",
    "MixScorer",
    "Mopps",
    "Pcl",
    "ScorerBase",
    "Variants",
]
