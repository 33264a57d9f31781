"""The config objects whose values must fit together: made of values that are each good by themselves.

What does not fit is a SettingsError, one sentence that names the settings as the user wrote them.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pointsman.access import AccessConfig
from pointsman.front import FrontConfig, TcpAddress
from pointsman.keyring import Keyring
from pointsman.retry import RetryConfig
from pointsman.sources import Given
from pointsman.store.config import StoreConfig
from pointsman.surfaces.plg import PlgConfig
from pointsman.upstream import UpstreamConfig
from pointsman.values import SettingsError


def called(name: str, given: Mapping[str, Given]) -> str:
    """What the user calls a setting."""
    return given[name].called if name in given else name


def front(values: Mapping[str, Any]) -> FrontConfig:
    """The HTTP front."""
    return FrontConfig(
        listen=values["LISTEN"] or (TcpAddress(values["HOST"], values["PORT"]),),
        keep_alive_s=values["KEEP_ALIVE_S"],
        head_s=values["REQUEST_HEAD_S"],
        body_s=values["REQUEST_BODY_S"],
        send_s=values["TIMEOUT__SEND_S"],
        max_connections=values["MAX_CONNECTIONS"],
        grace_s=values["GRACE_S"],
        drain_s=values["DRAIN_S"],
        stream_error_termination=values["STREAM_ERROR_TERMINATION"],
    )


def access(values: Mapping[str, Any], given: Mapping[str, Given]) -> AccessConfig:
    """Who may come in."""
    try:
        return AccessConfig(
            allowed=values["ALLOWED_NETWORKS"],
            denied=values["DENIED_NETWORKS"],
            trusted_proxies=values["TRUSTED_PROXIES"],
            ops=values["OPS_NETWORKS"],
            forwarded_header=values["FORWARDED_HEADER"],
            disabled=values["DISABLE_IP_RESTRICTION"],
        )
    except ValueError as error:  # begins with a setting's plain name
        name, _, rest = str(error).partition(" ")
        raise SettingsError(f"{called(name, given)} {rest}") from None


def keys_file(path: Path, name: str) -> Path:
    """Where the keys are; a file that is there must be usable."""
    try:
        Keyring(path).load()
    except ValueError as sentence:
        raise SettingsError(f"{name}: {sentence}") from None
    return path


def store(parts: dict[str, Any], given: Mapping[str, Given]) -> StoreConfig:
    """The store; Redis needs its extra."""
    try:
        config = StoreConfig(**parts)
    except ValueError as error:  # begins with the knob's name
        name, _, rest = str(error).partition(" ")
        raise SettingsError(f"{called(f'STORE__{name.upper()}', given)} {rest}") from None
    if not config.in_memory and find_spec("redis") is None:
        name = called("STORE__URL", given)
        raise SettingsError(f"{name} names Redis, which needs the extra: pip install 'pointsman[redis]'")
    return config


def plg(parts: dict[str, Any], given: Mapping[str, Given]) -> PlgConfig:
    """What PLG's routes take where a call does not say."""
    config = PlgConfig(**parts)
    most = config.max_context_tokens
    if (
        most is not None
        and "PLG__RESPONSE_RESERVE_TOKENS" in given
        and config.response_reserve_tokens >= most
    ):
        reserve = f"{called('PLG__RESPONSE_RESERVE_TOKENS', given)} ({config.response_reserve_tokens})"
        context = f"{called('PLG__MAX_CONTEXT_TOKENS', given)} ({most})"
        raise SettingsError(f"{reserve} leaves nothing of {context}; lower the one or raise the other")
    return config


def retry(parts: dict[str, Any], given: Mapping[str, Given]) -> RetryConfig:
    """The attempt loop."""
    config = RetryConfig(**parts)
    if config.backoff_base_s > config.backoff_max_s:
        base = f"{called('RETRY__BACKOFF_BASE_S', given)} ({config.backoff_base_s:g})"
        most = f"{called('RETRY__BACKOFF_MAX_S', given)} ({config.backoff_max_s:g})"
        raise SettingsError(f"{base} is more than {most}; raise the one or lower the other")
    return config


def upstream(parts: dict[str, Any], given: Mapping[str, Given]) -> UpstreamConfig:
    """How engines are connected to; certificates and keys must fit together."""
    config = UpstreamConfig(**parts)
    if config.client_key is not None and config.client_cert is None:
        key = called("UPSTREAM__CLIENT_KEY", given)
        raise SettingsError(f"{key} is set without a certificate; set UPSTREAM__CLIENT_CERT too")
    files = [f"UPSTREAM__{name}" for name in ("CA_FILE", "CLIENT_CERT", "CLIENT_KEY")]
    told = [called(name, given) for name in files if name in given]
    if told:
        try:
            config.tls()
        except OSError:  # ssl.SSLError is one
            hint = "give readable PEM files that fit together"
            raise SettingsError(f"{' and '.join(told)} cannot be used for TLS; {hint}") from None
    return config
