"""Options of ours in a database URL, such as ``?table_prefix=app_``."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qsl, urlencode, urlsplit

from mesh.errors import ConfigError, did_you_mean
from mesh.sql.dialects import BY_SCHEME

__all__ = ["split_options"]


def split_options(what: str, url: str, own: Collection[str]) -> tuple[str, dict[str, str]]:
    """The URL as the driver may see it, and those options in its query that are ``own``.

    Raises ``ConfigError``, naming ``what`` and the closest known word, for an option that
    neither we nor the driver know.
    """
    head, mark, query = url.partition("?")
    if not mark:
        return url, {}
    scheme = urlsplit(url).scheme.partition("+")[0]
    drivers = BY_SCHEME[scheme].options if scheme in BY_SCHEME else frozenset[str]()
    ours: dict[str, str] = {}
    rest: list[tuple[str, str]] = []
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in own:
            ours[key] = value
        elif key in drivers:
            rest.append((key, value))
        else:
            raise ConfigError(
                f"{what}: unknown option '{key}' in its URL{did_you_mean(key, {*own, *drivers})}"
            )
    return (f"{head}?{urlencode(rest)}" if rest else head), ours
