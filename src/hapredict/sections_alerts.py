"""The section of a spec about who is told, and of what."""

from pydantic import Field, field_validator, model_validator

from hapredict.expressions import ExpressionError, parse
from hapredict.sections import Section


class SinkSpec(Section):
    """One place that alerts go to: `webhook`, `alertmanager` or `log`."""

    webhook: str | None = Field(default=None, pattern=r"^https?://")
    """An address that is sent each alert as JSON by POST, again until it answers 2xx."""
    secret_env: str | None = None
    """Environment variable of the cluster that holds the key with which a webhook's bodies are
    signed (HMAC-SHA256, header `X-Hapredict-Signature`)."""
    alertmanager: str | None = Field(default=None, pattern=r"^https?://")
    """Prometheus' Alertmanager, without `/api/v2/alerts`."""
    log: bool = False
    """The controller's log."""

    @model_validator(mode="after")
    def _check(self) -> "SinkSpec":
        named = [name for name in ("webhook", "alertmanager", "log") if getattr(self, name)]
        if len(named) != 1:
            message = f"name one of webhook, alertmanager, log; got {named or 'none of them'}"
            raise ValueError(message)
        if self.secret_env is not None and self.webhook is None:
            message = "secret_env is for a webhook; leave it out"
            raise ValueError(message)
        return self


class RuleSpec(Section):
    """When one prediction is worth a warning."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """The alert's name: small letters, digits and underscores."""
    when: str
    """A condition on columns, `score` (of several classes the highest), `decision`, `uncertainty`
    and `version`, such as `score > 0.9 and amount > 1000`. What it names is sent along."""
    limit_per_hour: int = Field(default=60, ge=1, le=10_000)
    """Warnings an hour; more are counted, and the count is sent with the next."""

    @field_validator("when")
    @classmethod
    def _check(cls, when: str) -> str:
        try:
            parse(when)
        except ExpressionError as error:
            raise ValueError(str(error)) from None
        return when


class AlertsSpec(Section):
    """Who hears of alarms, of what control did, and of risky predictions."""

    sinks: tuple[SinkSpec, ...] = ()
    """Where alerts go; each sink gets all of them, and one that is down delays only itself."""
    rules: tuple[RuleSpec, ...] = ()
    """Warnings about single predictions."""
    limit_per_hour: int = Field(default=60, ge=1)
    """Alerts an hour of each other kind; more are counted, and the count is sent with the next."""

    @field_validator("rules")
    @classmethod
    def _check(cls, rules: tuple[RuleSpec, ...]) -> tuple[RuleSpec, ...]:
        names = [rule.name for rule in rules]
        if len(set(names)) != len(names):
            message = f"two rules have one name; got {names}"
            raise ValueError(message)
        return rules

    @model_validator(mode="after")
    def _check_heard(self) -> "AlertsSpec":
        if self.rules and not self.sinks:
            message = "there are rules and no sinks; name one, such as {log: true}"
            raise ValueError(message)
        return self
