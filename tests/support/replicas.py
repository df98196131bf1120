"""What tests do with a real replica: give it a second version, break one, read its journal."""

import os
from dataclasses import replace

import numpy as np

from hapredict.registry import catalog
from hapredict.serving.journal import decode, merge, predictions_prefix, unread
from tests.support.bundles import MODEL, change, publish_linear, table_of

NOW_S = 1_800_000_000.0
TABLE = table_of(40, seed=1)


def try_second(store, share=None, **second):
    publish_linear(store, **{"weights": {"distance": 3.0}, **second})
    change(store, catalog.shadow, 2, 10.0)
    if share is not None:
        change(store, catalog.share, share, 20.0)


def recorded(store, replica, *answers):
    for answer in answers:
        replica.after(answer)
    replica.report()
    parts = [decode(store.get(path)) for _, _, path in unread(store, predictions_prefix(MODEL), {})]
    return merge(parts, source="all", seq=1, model=MODEL)


def die(recorder):
    """What SIGKILL leaves: files as they are, and no lock."""
    spool = recorder._spool
    if spool._file is not None:
        os.close(spool._file)
        spool._file = None
    os.close(spool._lock)
    spool._lock = None


def scores_of(replica, number, table=TABLE):
    return replica._routes.versions[number].scores(table)


def breaks(replica, number, scores):
    """From now on a version gives these scores, whatever the rows."""

    class Engine:
        def scores(self, matrices):
            if scores is None:
                raise RuntimeError("the network broke")
            return np.full((len(matrices.numbers), 1), scores, np.float32)

    versions = replica._routes.versions
    versions[number] = replace(versions[number], engine=Engine())
