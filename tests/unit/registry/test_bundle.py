"""Bundles: immutable, whole, and checked at each load."""

import json
import math
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.data.schema import Column, Schema
from hapredict.errors import CorruptBundle, GateRefused, NotFound
from hapredict.features.plan import FeaturePlan
from hapredict.features.stats import TableStats
from hapredict.registry.bundle import Golden, Reference, load, publish, score_bin
from hapredict.registry.store import encode_json, open_store
from hapredict.spec import build_spec

FILES = [
    "card.json",
    "golden.json",
    "manifest.json",
    "network.keras",
    "network.onnx",
    "plan.json",
    "reference.json",
    "schema.json",
    "spec.json",
]
NAN = float("nan")


def parts(**changes):
    spec = build_spec({"name": "m", "data": {"sources": ["x.csv"], "target": "späť"}})
    schema = Schema(
        features=(Column("Größe", "number"), Column("航空", "category")),
        target="späť",
        task="binary",
        classes=("no", "yes"),
        time=None,
        id=None,
    )
    table = {
        "Größe": np.array([1.0, 2.5, NAN, 4.0, 0.1]),
        "航空": np.array(["JFK", None, "LGA", "JFK", "東京"], dtype=object),
    }
    plan = FeaturePlan.from_stats(TableStats.of(table, schema), schema, spec.features)
    found = {
        "spec": spec,
        "schema": schema,
        "plan": plan,
        "reference": reference(),
        "network_onnx": b"onnx \x00\xff",
        "source": b"",
        "source_name": "network.keras",
        "golden": Golden({"Größe": [1.0, NAN], "航空": ["JFK", None]}, [[0.25], [0.5]]),
        "metrics": {"auc": 0.7, "rows": 3, "undefined": NAN},
        "card": {"run": "run-1", "range": [0.5, NAN], "libraries": {"keras": "3"}},
    }
    return {**found, **changes}


def reference(**changes):
    fields = {
        "bins": (1, 2, 3),
        "score_edges": (0.25, 0.5, 0.75),
        "score_counts": (4, 3, 2, 1),
        "loss_mean": 0.1,
        "loss_rows": 10,
        "loss_scale": 1.0,
        "rows": 10,
    }
    return Reference(**{**fields, **changes})


@pytest.fixture
def store(tmp_path):
    return open_store(f"memory://{tmp_path}")


def test_what_is_published_is_what_is_loaded(store):
    given_parts = parts()
    digest = publish(store, "m", **given_parts)
    bundle = load(store, "m", digest)
    assert bundle.digest == digest
    for name in ("spec", "schema", "plan", "reference", "network_onnx", "source", "source_name"):
        assert getattr(bundle, name) == given_parts[name], name
    assert bundle.golden == given_parts["golden"]
    assert bundle.golden.rows == {"Größe": [1.0, None], "航空": ["JFK", None]}
    assert bundle.metrics == {"auc": 0.7, "rows": 3, "undefined": None}
    assert bundle.card == {"run": "run-1", "range": [0.5, None], "libraries": {"keras": "3"}}


def test_golden_rows_are_rows_that_the_schema_takes(store):
    bundle = load(store, "m", publish(store, "m", **parts()))
    table = bundle.schema.table(bundle.golden.rows)
    assert math.isnan(table["Größe"][1])
    assert table["航空"].tolist() == ["JFK", None]


def test_publishing_again_is_no_error_and_changes_nothing(store):
    digest = publish(store, "m", **parts())
    before = {path: store.get(path) for path in store.list("")}
    assert publish(store, "m", **parts()) == digest
    assert {path: store.get(path) for path in store.list("")} == before
    assert list(before) == [f"bundles/m/{digest}/{name}" for name in FILES]


def test_other_parts_are_another_bundle_and_both_stay(store):
    first = publish(store, "m", **parts())
    second = publish(store, "m", **parts(network_onnx=b"other"))
    assert first != second
    assert load(store, "m", first).network_onnx != load(store, "m", second).network_onnx


def test_the_manifest_is_written_last(store, monkeypatch):
    written = []
    monkeypatch.setattr(store, "put", lambda path, data: written.append(path))
    publish(store, "m", **parts())
    assert sorted(path.rpartition("/")[2] for path in written) == FILES
    assert written[-1].endswith("/manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, -1])
def test_one_changed_byte_is_found_and_its_file_named(store, name, place):
    digest = publish(store, "m", **parts(source=b"keras"))
    path = f"bundles/m/{digest}/{name}"
    damaged = bytearray(store.get(path))
    damaged[place] ^= 1
    store.put(path, bytes(damaged))
    with pytest.raises(CorruptBundle, match=path):
        load(store, "m", digest)


@pytest.mark.parametrize("name", FILES)
def test_a_shortened_file_is_found_and_named(store, name):
    digest = publish(store, "m", **parts(source=b"keras"))
    path = f"bundles/m/{digest}/{name}"
    store.put(path, store.get(path)[:-1])
    with pytest.raises(CorruptBundle, match=path):
        load(store, "m", digest)


@pytest.mark.parametrize("name", [name for name in FILES if name != "manifest.json"])
def test_a_missing_file_is_a_damage_and_named(store, name):
    digest = publish(store, "m", **parts())
    store.delete(f"bundles/m/{digest}/{name}")
    with pytest.raises(CorruptBundle, match=f"{name}: it is missing"):
        load(store, "m", digest)


def test_without_a_manifest_there_is_no_bundle_yet(store):
    digest = publish(store, "m", **parts())
    store.delete(f"bundles/m/{digest}/manifest.json")
    with pytest.raises(NotFound, match=digest):
        load(store, "m", digest)
    with pytest.raises(NotFound):
        load(store, "another", digest)


def test_publishing_again_restores_what_was_damaged(store):
    digest = publish(store, "m", **parts())
    store.put(f"bundles/m/{digest}/network.onnx", b"half")
    store.delete(f"bundles/m/{digest}/plan.json")
    assert publish(store, "m", **parts()) == digest
    assert load(store, "m", digest).network_onnx == parts()["network_onnx"]


def republished(store, digest, *, replaced=None, listed=None):
    """A bundle whose digests are right, as another hapredict might have written it."""
    old = f"bundles/m/{digest}"
    manifest = json.loads(store.get(f"{old}/manifest.json"))
    files = {name: store.get(f"{old}/{name}") for name in manifest["files"]}
    for name, data in (replaced or {}).items():
        files[name] = data
        manifest["files"][name] = {"sha256": sha256(data).hexdigest(), "bytes": len(data)}
    data = encode_json({**manifest, **(listed or {})})
    new = sha256(data).hexdigest()
    for name, content in {**files, "manifest.json": data}.items():
        store.put(f"bundles/m/{new}/{name}", content)
    return new


def test_a_manifest_that_fits_its_files_but_not_its_name_is_found(store):
    digest = publish(store, "m", **parts())
    other = publish(store, "m", **parts(network_onnx=b"other"))
    for name in FILES:
        store.put(f"bundles/m/{digest}/{name}", store.get(f"bundles/m/{other}/{name}"))
    with pytest.raises(CorruptBundle, match=f"{digest}/manifest.json: its SHA-256"):
        load(store, "m", digest)


@pytest.mark.parametrize("listed", [{"format": 3}, {"format": None}, {"files": {}}])
def test_a_bundle_of_another_format_says_so(store, listed):
    digest = republished(store, publish(store, "m", **parts()), listed=listed)
    with pytest.raises(CorruptBundle, match="use the hapredict that wrote it"):
        load(store, "m", digest)


def test_a_bundle_of_the_first_format_still_loads(store):
    new = publish(store, "m", **parts(source=b"keras"))
    old = load(store, "m", republished(store, new, listed={"format": 1}))
    assert (old.source, old.source_name) == (b"keras", "network.keras")
    assert (old.spec, old.golden) == (parts()["spec"], parts()["golden"])


def test_the_first_format_knew_networks_only(store):
    trees = publish(store, "m", **parts(source_name="trees.ubj"))
    assert load(store, "m", trees).source_name == "trees.ubj"
    with pytest.raises(CorruptBundle, match=r"trees\.ubj"):
        load(store, "m", republished(store, trees, listed={"format": 1}))


@pytest.mark.parametrize("name", ["spec.json", "../escape", "", "network.onnx", "model.pkl"])
def test_a_source_of_another_name_is_refused_before_anything_is_written(store, name):
    with pytest.raises(GateRefused, match="its source is called"):
        publish(store, "m", **parts(source_name=name))
    assert store.list("") == []


@pytest.mark.parametrize("name", ["spec.json", "schema.json", "plan.json", "reference.json"])
def test_a_part_that_is_intact_but_means_nothing_here_says_so(store, name):
    digest = republished(store, publish(store, "m", **parts()), replaced={name: b'{"new":1}'})
    with pytest.raises(CorruptBundle, match="is intact, but cannot be read"):
        load(store, "m", digest)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("reference", reference(loss_mean=NAN)),
        ("golden", Golden({"Größe": [1.0]}, [[float("inf")]])),
        ("card", {"when": object()}),
    ],
)
def test_what_no_json_can_hold_is_refused_before_anything_is_written(store, name, part):
    with pytest.raises(GateRefused, match=f"{name}.json of model 'm'"):
        publish(store, "m", **parts(**{name: part}))
    assert store.list("") == []


def test_numpy_values_are_published_as_plain_ones(store):
    changed = parts(
        reference=reference(
            bins=np.array([1, 2, 3]),
            score_edges=np.array([0.25, 0.5, 0.75]),
            loss_rows=np.int64(10),
            loss_scale=np.float32(1),
        ),
        golden=Golden({"Größe": np.array([1.0, NAN])}, np.array([[0.5], [0.25]], np.float32)),
        metrics={"auc": np.float32(0.5)},
        card={"rows": np.int64(3)},
    )
    bundle = load(store, "m", publish(store, "m", **changed))
    assert bundle.reference == reference()
    assert bundle.golden == Golden({"Größe": [1.0, None]}, [[0.5], [0.25]])
    assert (bundle.metrics, bundle.card) == ({"auc": 0.5}, {"rows": 3})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"score_edges": (0.5, 0.25, 0.75)}, "must grow"),
        ({"score_edges": (0.5, 0.5, 0.75)}, "must grow"),
        ({"score_edges": (0.5,)}, "1 score_edges make 2 bins; got 4"),
    ],
)
def test_a_reference_that_contradicts_itself_is_refused(changes, why):
    with pytest.raises(ValueError, match=why):
        reference(**changes)


def test_a_score_at_an_edge_belongs_to_the_bin_above():
    scores = np.array([[0.0], [0.25], [0.3], [0.75], [1.0]], np.float32)
    assert score_bin(reference(), scores).tolist() == [0, 1, 1, 3, 3]
    assert score_bin(reference(), scores).dtype == np.int32


def test_of_several_classes_the_surest_is_binned():
    assert score_bin(reference(), np.array([[0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])).tolist() == [2, 3]
    assert score_bin(reference(), np.empty((0, 3))).tolist() == []


@given(
    edges=st.lists(st.floats(-1e6, 1e6), unique=True, max_size=8).map(sorted),
    scores=st.lists(st.floats(width=32)),
)
def test_each_score_has_a_bin_that_the_reference_counts(edges, scores):
    counted = reference(score_edges=edges, score_counts=[0] * (len(edges) + 1))
    bins = score_bin(counted, np.array(scores, np.float32).reshape(-1, 1))
    assert len(bins) == len(scores)
    assert all(0 <= place < len(counted.score_counts) for place in bins)
