"""Routes: the cluster's settings, and its mode."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Router, get, patch
from litestar.params import JSONBody

from mesh.config import Config, convert
from mesh.errors import ConfigError, did_you_mean
from mesh.retry import Retry
from mesh.settings import SHARED, ClusterSettings, Mode
from mesh.sign_in import Scope
from mesh_master.api.context import GivenApi, require
from mesh_master.api.problems import PROBLEMS

__all__ = ["router"]


class Setting(msgspec.Struct, kw_only=True):
    value: Any
    """In effect where a process is not told otherwise."""
    is_default: bool


class Settings(msgspec.Struct, kw_only=True):
    mode: Mode
    settings: dict[str, Setting]
    revision: int


@get("/", guards=[require(Scope.READ)], responses=PROBLEMS)
async def show_settings(api: GivenApi) -> Settings:
    """What holds for all processes of the cluster."""
    return _shown(await (await api.master()).cluster_settings())


@patch("/", guards=[require(Scope.ADMIN)], responses=PROBLEMS)
async def change_settings(api: GivenApi, data: JSONBody[dict[str, Any]]) -> Settings:
    """Change `mode` (active, passive, archive) or any of the settings; `null` goes back to the
    built-in default. Running processes hear of it within seconds."""
    changes: dict[str, Any] = {}
    for key, value in data.items():
        if key == "mode":
            changes[key] = _mode(value)
        elif key in SHARED:
            changes[key] = None if value is None else convert("PATCH /settings", key, value)
        else:
            hint = did_you_mean(key, ("mode", *SHARED))
            raise ConfigError(f"no setting of the cluster is named '{key}'{hint}")

    def change(settings: ClusterSettings) -> ClusterSettings:
        return msgspec.structs.replace(settings, **changes)

    return _shown(await (await api.master()).change_settings(change))


def _mode(value: Any) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise ConfigError(f"mode={value!r}{did_you_mean(str(value), Mode)}") from None


def _shown(settings: ClusterSettings) -> Settings:
    shown: dict[str, Setting] = {}
    for key in SHARED:
        value = getattr(settings, key)
        field = Config.__dataclass_fields__[key]
        default = field.default_factory() if callable(field.default_factory) else field.default
        used = default if value is None else value
        shown[key] = Setting(value=_plain(used), is_default=value is None)
    return Settings(mode=settings.mode, settings=shown, revision=settings.revision)


def _plain(value: Any) -> Any:
    """As it may be given, too: a policy by its keys, though on the wire it is an array."""
    if isinstance(value, Retry):
        value = {k: v for k, v in msgspec.structs.asdict(value).items() if k != "when"}
    return msgspec.to_builtins(value, enc_hook=str)


router = Router("/settings", tags=["settings"], route_handlers=[show_settings, change_settings])
