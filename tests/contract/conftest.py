"""Contract tests are plain, as unit tests are."""

from tests.support.plain import only_plain

__all__ = ["only_plain"]
