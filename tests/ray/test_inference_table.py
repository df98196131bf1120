"""The inference table is read by what people have, by its folder alone."""

import duckdb
import pandas as pd
import pytest
import ray

from hapredict.monitoring.compact import Compactor
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import open_store
from tests.support.bundles import MODEL, publish_linear
from tests.support.live import labels_of, part_of, put_labels, put_part

DAYS, ROWS = 3, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store whose journal was moved into the table; its folder."""
    folder = tmp_path_factory.mktemp("store")
    store = open_store(str(folder))
    publish_linear(store)
    bundle = load(store, MODEL, Catalog(store, MODEL).latest().state.versions[1].digest)
    for day in range(DAYS):
        part = part_of(bundle, day + 1, day=day, rows=ROWS)
        put_part(store, part)
        put_labels(store, labels_of(part, share=0.5), seq=day + 1)
    assert Compactor(store, MODEL).move(1.0, "order").parts == 2 * DAYS
    return folder


def test_pandas_reads_it(folder):
    rows = pd.read_parquet(folder / "inference" / MODEL)
    labels = pd.read_parquet(folder / "labels" / MODEL)
    joined = rows.merge(labels, on="prediction_id")
    assert (len(rows), len(joined), rows["day"].nunique()) == (DAYS * ROWS, DAYS * ROWS // 2, DAYS)
    assert rows["score"].between(0, 1).all()
    assert str(rows["event_time"].dt.tz) == "UTC"


def test_duckdb_joins_the_first_label_of_each_prediction(folder):
    found = duckdb.execute(
        """
        SELECT r.day, count(*) AS answered, count(l.label) AS labelled
        FROM read_parquet($rows, union_by_name = true) r
        LEFT JOIN (
            SELECT prediction_id, arg_min(label, arrived_at) AS label
            FROM read_parquet($labels) GROUP BY ALL
        ) l USING (prediction_id)
        GROUP BY r.day ORDER BY r.day
        """,
        {
            "rows": f"{folder}/inference/{MODEL}/*/*.parquet",
            "labels": f"{folder}/labels/{MODEL}/*/*.parquet",
        },
    ).fetchall()
    assert [row[1:] for row in found] == [(ROWS, ROWS // 2)] * DAYS


def test_ray_data_reads_it(folder, cluster):
    rows = ray.data.read_parquet(str(folder / "inference" / MODEL))
    assert rows.count() == DAYS * ROWS
    taken = rows.take(1)[0]
    assert taken["prediction_id"]
    assert "day" in taken
