"""Data: sources, distributions with a held-out split, prompt templates, pools of prompts, a
character tokenizer.
"""

from rlcurric.data.distributions import (
    Counts,
    Distribution,
    DistributionSpec,
    content_hash,
    held_out_rows,
    load_available,
    load_distributions,
    load_later,
    require_columns,
    select,
    training_rows,
)
from rlcurric.data.modes import Modes, tokenize_modes
from rlcurric.data.overlap import NGRAM, Overlap, overlaps, trained_texts
from rlcurric.data.pool import (
    Overlong,
    Pool,
    PreferenceExample,
    Room,
    SftExample,
    preference_examples,
    sft_examples,
)
from rlcurric.data.rows import Located, Place, Row
from rlcurric.data.shots import Examples, draw_examples
from rlcurric.data.sources import (
    Source,
    Split,
    as_source,
    import_attribute,
    make_source,
    reasoning_gym_rows,
    source_factory,
)
from rlcurric.data.templates import PromptTemplate, Renderer
from rlcurric.data.tokenizers import character_tokenizer
from rlcurric.data.variables import Variables, number_text, stage_points

__all__ = [
    "Counts",
    "Distribution",
    "DistributionSpec",
    "Examples",
    "Located",
    "Modes",
    "NGRAM",
    "Overlap",
    "Overlong",
    "Place",
    "Pool",
    "PreferenceExample",
    "PromptTemplate",
    "Renderer",
    "Room",
    "Row",
    "SftExample",
    "Source",
    "Split",
    "Variables",
    "as_source",
    "character_tokenizer",
    "content_hash",
    "draw_examples",
    "held_out_rows",
    "import_attribute",
    "load_available",
    "load_distributions",
    "load_later",
    "make_source",
    "number_text",
    "overlaps",
    "preference_examples",
    "reasoning_gym_rows",
    "require_columns",
    "select",
    "sft_examples",
    "source_factory",
    "stage_points",
    "tokenize_modes",
    "trained_texts",
    "training_rows",
]
