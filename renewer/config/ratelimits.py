"""How many requests a service allows, as people write it: ``200/1m``, or ``off``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, TypeAlias

from pydantic import BeforeValidator

from renewer.config.quantities import format_duration, parse_duration
from renewer.config.section import Section
from renewer.core.quotas import Limit

_FORM: Final = 'must be so many requests in so long, such as "200/1m", or "off"'
_OFF: Final = "off"
_MAX_COUNT: Final = 1_000_000
_LEAST: Final = timedelta(seconds=1)
_MOST: Final = timedelta(days=1)


def parse_limit(value: object) -> Limit | None:
    """Read ``COUNT/SPAN``; None for ``off``. Raises `ValueError` that says what would be right."""
    if value is None or isinstance(value, Limit):
        return value
    if not isinstance(value, str):
        raise ValueError(_FORM)  # noqa: TRY004 - pydantic makes a finding of ValueError alone
    text = value.strip()
    if text.lower() == _OFF:
        return None
    count, slash, span_text = (part.strip() for part in text.partition("/"))
    if not slash or not (count.isascii() and count.isdigit() and len(count) < 10):
        raise ValueError(_FORM)
    try:
        span = parse_duration(span_text)
    except ValueError:
        raise ValueError(f"{_FORM}: a number, a slash and a duration") from None
    if not 0 < int(count) <= _MAX_COUNT or not _LEAST <= span <= _MOST:
        raise ValueError(f"{_FORM}: 1 to {_MAX_COUNT} requests in 1s to 1d")
    return Limit(int(count), span.total_seconds())


def format_limit(limit: Limit | None) -> str:
    """Write a limit as `parse_limit` reads it."""
    return _OFF if limit is None else f"{limit.count}/{format_duration(timedelta(seconds=limit.span_s))}"


LimitSetting: TypeAlias = Annotated[Limit | None, BeforeValidator(parse_limit)]


class LimitSettings(Section):
    """The buckets that a service counts requests in, and how many each takes; None for one that is not limited."""

    def by_bucket(self) -> dict[str, Limit | None]:
        """The limits by the names of their buckets."""
        return {bucket: getattr(self, bucket) for bucket in type(self).model_fields}

    def shown(self) -> dict[str, str]:
        """The same as people write it."""
        return {bucket: format_limit(limit) for bucket, limit in self.by_bucket().items()}

    def __str__(self) -> str:
        """Render as it stands in a file."""
        return "{ " + ", ".join(f'{bucket} = "{text}"' for bucket, text in self.shown().items()) + " }"


class FabricLimits(LimitSettings):
    """Microsoft Fabric counts calls for each identity in three buckets; it says how many for two of them.

    Throttling of the Fabric REST API: "Platform APIs" and "Job Scheduler APIs", 200 calls a minute each.
    """

    platform: LimitSetting = Limit(200, 60.0)
    jobs: LimitSetting = Limit(200, 60.0)
    operations: LimitSetting = None


class AzureLimits(LimitSettings):
    """Azure services differ, and most tell no number: there is no limit unless somebody sets one."""

    reads: LimitSetting = None
    writes: LimitSetting = None
    deletes: LimitSetting = None
