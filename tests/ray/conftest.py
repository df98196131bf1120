"""One real cluster a session, shared with the other folders that need one."""

from tests.support.clusters import cluster, model

__all__ = ["cluster", "model"]
