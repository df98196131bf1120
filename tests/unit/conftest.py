"""Unit tests are plain: no Ray, no Keras, no waiting."""

from tests.support.plain import only_plain

__all__ = ["only_plain"]
