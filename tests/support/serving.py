"""A replica without a model, and a caller without a server."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, rows_of
from hapredict.errors import TemporaryError, UnknownName
from hapredict.features.plan import count_bins
from hapredict.features.typical import typical
from hapredict.serving.asgi import App
from hapredict.serving.decisions import Rule
from hapredict.serving.descriptions import About
from hapredict.serving.explain import Baseline, Effects, effects_of
from hapredict.serving.ids import with_keys
from hapredict.serving.journal import Label
from hapredict.spec import Spec
from tests.support.bundles import MODEL, plan_of, schema_of, spec_of, table_of


@dataclass(frozen=True)
class FakeAnswer:
    """What `Answered` asks for."""

    model: str
    schema: Schema
    rule: Rule
    ids: tuple[str, ...]
    versions: NDArray[np.int64]
    served_by: tuple[str, ...]
    scores: NDArray[np.float32]
    extras: NDArray[np.float32] | None = None
    extra_names: tuple[str, ...] = ()


def answer_of(
    schema: Schema,
    rows: int = 3,
    *,
    version: int = 1,
    stem: str = "p",
    rule: Rule | None = None,
    extra_names: tuple[str, ...] = (),
) -> FakeAnswer:
    """Scores that differ from row to row and are probabilities where the task wants them.

    Of three rows with extras, one says nothing beside its score.
    """
    steps = np.arange(rows * schema.outputs, dtype=np.float32).reshape(rows, schema.outputs)
    scores = (0.13 + 0.37 * steps) % 1
    if schema.task == "multiclass":
        scores /= scores.sum(axis=1, keepdims=True)
    if schema.task == "regression":
        scores = 100 * scores - 50
    extras = np.arange(rows * len(extra_names), dtype=np.float32).reshape(rows, -1) / 8
    extras[1::3] = np.nan
    return FakeAnswer(
        MODEL,
        schema,
        rule or Rule(),
        tuple(f"{stem}-{row}" for row in range(rows)),
        np.full(rows, version, np.int64),
        ("champion",) * rows,
        scores.astype(np.float32),
        extras if extra_names else None,
        extra_names,
    )


@dataclass
class FakeReplica:
    """The seam that the app sees, with everything that it was asked for written down."""

    spec: Spec = field(default_factory=spec_of)
    schema: Schema = field(default_factory=schema_of)
    model: str = MODEL
    model_version: int = 1
    extras: tuple[str, ...] = ()
    ready: bool = True
    trouble: str = ""
    faults: dict[str, Exception] = field(default_factory=dict)
    """What to raise, by the name of the method."""
    log: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    refusals: list[tuple[str, int]] = field(default_factory=list)
    """First column at fault, and rows, of each request whose rows did not fit."""
    calls: int = 0

    def about(self, version: int | None = None) -> About:
        self._check_version(version)
        table = table_of(50, schema=self.schema)
        plan = plan_of(self.schema, table, self.spec)
        row = typical(plan, count_bins(plan.bins(table), plan.bin_totals).tolist())
        return About(version or self.model_version, self.schema, self.extras, plan, row)

    def detail(self) -> dict[str, Any]:
        return {"model": self.model, "versions": [1, 2], "store_trouble": self.trouble}

    def predict(
        self,
        table: Table,
        *,
        version: int | None = None,
        named: Sequence[tuple[int, int, str]] = (),
    ) -> FakeAnswer:
        self._check("predict")
        self._check_version(version)
        self.calls += 1
        found = answer_of(
            self.schema,
            rows_of(table),
            version=version or 1,
            stem=f"call{self.calls}",
            extra_names=self.extras,
        )
        return replace(found, ids=with_keys(found.ids, named)) if named else found

    def refused(self, column: str, rows: int) -> None:
        self.refusals.append((column, rows))

    def explain(
        self, table: Table, *, version: int | None = None, baseline: Baseline = "typical"
    ) -> Effects:
        self._check("explain")
        about = self.about(version)
        return effects_of(
            lambda rows: answer_of(self.schema, rows_of(rows)).scores,
            table,
            self.schema,
            about.typical,
            version=about.version,
            baseline=baseline,
            rule=Rule(),
        )

    def after(self, answer: FakeAnswer) -> None:
        self._check(f"after {answer.ids[0]}")

    def feedback(self, labels: Sequence[Label]) -> None:
        self._check("feedback")
        self.labels += labels

    def refresh(self) -> bool:
        self._check("refresh")
        return False

    def tick(self) -> None:
        self._check("tick")

    def report(self) -> None:
        self._check("report")

    def close(self) -> None:
        self._check("close")

    def _check_version(self, version: int | None) -> None:
        if version not in (None, 1, 2):
            raise UnknownName("loaded version", str(version), ("1", "2"))

    def _check(self, what: str) -> None:
        self.log.append(what)
        fault = self.faults.get(what.split(maxsplit=1)[0])
        if fault is not None:
            raise fault


def not_ready() -> FakeReplica:
    """A replica that has no version yet."""
    return _NotReady(ready=False)


class _NotReady(FakeReplica):
    def __getattribute__(self, name: str) -> Any:
        if name in ("spec", "schema", "model_version", "extras", "about"):
            raise TemporaryError("model 'orders' has no version in service yet; try later")
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Got:
    """What a caller received; status 0 is nothing."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Clock:
    """A clock that a test sets."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def encoded(body: Any) -> bytes:
    """A body as bytes: JSON, unless it is bytes already."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


async def ask(
    app: App,
    method: str,
    path: str,
    body: Any = b"",
    *,
    headers: Mapping[str, str] | None = None,
    root: str = "",
    chunks: Sequence[bytes] | None = None,
    on_send: Callable[[Any], None] | None = None,
) -> Got:
    """Send one request; `chunks` sends the body in pieces, of which the app may refuse the rest."""
    sent: list[Any] = []
    pieces = list(chunks if chunks is not None else [encoded(body)])

    async def receive() -> dict[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)
        if on_send is not None:
            on_send(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root,
        "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
    }
    await app(scope, receive, send)
    start = next((m for m in sent if m["type"] == "http.response.start"), None)
    return Got(
        start["status"] if start else 0,
        {key.decode(): value.decode() for key, value in start["headers"]} if start else {},
        b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body"),
    )


def together(*requests: Awaitable[Any]) -> list[Any]:
    """All requests in one turn of one event loop; the answers in their order."""

    async def both() -> list[Any]:
        return await asyncio.gather(*requests)

    return asyncio.run(both())
