"""Values of people's programs in the forms that requests have: of numpy, of pandas, of Python."""

from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """JSON for values of numpy and of pandas, whose missing markers are null.

    For msgspec, which asks for what it does not know itself. Raises TypeError for what has no form.
    """
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]").item()  # of nanoseconds it would be a bare number
    for form in ("item", "isoformat"):
        if hasattr(value, form):
            return getattr(value, form)()
    raise TypeError(f"a row holds a {type(value).__name__}, which has no form in JSON")
