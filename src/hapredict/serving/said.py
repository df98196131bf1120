"""What answers said beside their scores, for the journal: decisions, uncertainty, quantiles."""

from collections.abc import Sequence

import numpy as np

from hapredict.data.schema import Table
from hapredict.serving.answers import Answered
from hapredict.serving.journal import join_tables


def decisions_of(answers: Sequence[Answered]) -> tuple[str | None, ...]:
    """The classes decided; () where there are none."""
    schema = answers[0].schema
    if schema.task == "regression":
        return ()
    if any(a.schema is not schema for a in answers):
        return tuple(name for a in answers for name in decisions_of([a]))
    places = answers[0].rule.places(np.concatenate([a.scores for a in answers]), schema.classes)
    return tuple([schema.classes[place] for place in places.tolist()])


def extras_of(answers: Sequence[Answered]) -> Table:
    """What versions said beside their scores, [rows] a name; NaN where one did not."""
    tables = [
        {}
        if a.extras is None
        else {name: a.extras[:, at].astype(np.float64) for at, name in enumerate(a.extra_names)}
        for a in answers
    ]
    return join_tables(tables, [len(a.ids) for a in answers]) if any(tables) else {}
