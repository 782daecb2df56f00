"""One language throughout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import rlcurric
from rlcurric.registry import nearest
from rlcurric.rewards.scripts import SCRIPTS, prose, share_in
from rlcurric.rewards.spans import thought


def _check(language: Any, **others: Any) -> None:
    if not isinstance(language, str) or language not in SCRIPTS:
        raise ValueError(
            f"language_consistency needs the code of a language that it knows, got {language!r}. It knows: "
            f"{', '.join(sorted(SCRIPTS))}"
        )


@rlcurric.reward("language_consistency", where="inline", validate=_check)
def language_consistency(
    prompts: list[str],
    completions: list[str],
    language: str = "en",
    language_column: str = "",
    part: Literal["think", "completion"] = "think",
    **columns: Any,
) -> list[float | None]:
    """Share of the words that are in the wanted language, by their script (DeepSeek-R1, 2501.12948, section 2.3.2).

    Code, LaTeX, tags and single letters are left out; None where no word is left. Languages of one script, such as
    English and French, cannot be told apart. `part: think` (the paper) looks at the thought alone, which is the whole
    completion where no tag closes one. `language_column` names a column with each row's own language.
    """
    languages: Sequence[Any] = [language] * len(completions)
    if language_column and completions:
        if language_column not in columns:
            raise ValueError(
                f"language_consistency needs the column {language_column!r}. {nearest(language_column, columns)}"
            )
        languages = columns[language_column]
    for one in [language, *languages]:
        _check(one)
    texts = [thought(text) if part == "think" else text for text in completions]
    return [share_in(prose(text), one) for text, one in zip(texts, languages, strict=True)]
