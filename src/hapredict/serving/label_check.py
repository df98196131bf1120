"""Whether a label can be one of this model's, before anything of it is written."""

import math

from hapredict.data.values import TEXT_MAX
from hapredict.errors import BadRequest
from hapredict.serving.feedback import ID_MAX
from hapredict.serving.journal import Label
from hapredict.serving.scoring import Routes


def check_label(routes: Routes, label: Label, where: str) -> None:
    """Raises BadRequest, which begins with `where`, for a label that no loaded version knows."""
    name, most = ("id", TEXT_MAX) if label.of_row else ("prediction_id", ID_MAX)
    if not 0 < len(label.id) <= most:
        raise BadRequest(f"{where}: {name} must have 1 to {most} characters; got {len(label.id)}")
    if label.of_row and routes.champion.schema.id is None:
        raise BadRequest(
            f"{where}.id: this model's rows have no id (data.id); send the prediction_id"
        )
    if not math.isfinite(label.at_s) or (
        label.event_s is not None and not math.isfinite(label.event_s)
    ):
        raise BadRequest(f"{where}: its time must be a finite number of seconds")
    try:
        routes.champion.schema.label_of(label.value)
    except BadRequest as error:
        for loaded in routes.versions.values():  # a challenger may know a newer class
            try:
                loaded.schema.label_of(label.value)
            except BadRequest:
                continue
            return
        raise BadRequest(f"{where}: {error}", error.status) from None
