"""Credentials in URLs: kept in the memory of this process, and shown to nobody.

A URL like `postgresql://user:password@host/mlflow` or `s3://key:secret@bucket` comes in by a config
or an option, and would go on into logs, files, checkpoints and MLflow. `put_aside` takes the
credentials out of it, and whoever opens a connection gets them back by `restored` or `credentials`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

_USER = r"""
    (?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):/{1,2}         # pathlib makes one of two slashes
    (?P<user>
        [^\s/?\#@:]*:[^\s/?\#]*                        # user:password
      | [^\s/?\#@:]+:(?!\d+(?:[/?\#\s]|$))[^\s]*       # a password that should have been quoted
      | (?<=http://)[^\s/?\#@]+ | (?<=https://)[^\s/?\#@]+                # a token
    )@"""
_QUERY = r"""
    (?P<mark>[?&])
    (?!viewStateShareKey=)                             # which names a view of MLflow's page
    (?P<name>[\w.-]*(?:password|passwd|pwd|token|secret|credential|signature|key|sig)[\w.-]*)
    =(?P<value>[^&\#\s'"]+)"""
_IN_FRONT = re.compile(_USER, re.VERBOSE | re.IGNORECASE)
_BEHIND = re.compile(_QUERY, re.VERBOSE | re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")

_SHORTEST = 6
"""Shorter secrets are not looked for outside of URLs, where they may be any word."""

_ENVIRONMENT = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)


class Credentials(NamedTuple):
    """What a URL said of who opens it.

    Attributes:
        user: `user:password` as it was written, or a token; may be empty.
        options: Secret parameters of its query, by name.
    """

    user: str
    options: dict[str, str]

    @property
    def name_and_password(self) -> tuple[str, str]:
        """User and password, decoded."""
        name, _, password = self.user.partition(":")
        return unquote(name), unquote(password)

    @property
    def user_in_url(self) -> str:
        """User and password, quoted as they must be in a URL."""
        quoted = [quote(part, safe="") for part in self.name_and_password]
        return ":".join(quoted) if ":" in self.user else quoted[0]


_kept: dict[str, Credentials] = {}
"""Credentials by the place that they are for: the start of a URL, with its host."""


def put_aside(value: Any, *, keep: bool = True) -> Any:
    """`value` with all URLs in it, at any depth, without their credentials.

    These are kept, unless `keep` is false, as for a file of an earlier version: what the user says
    now is newer.
    """
    if isinstance(value, str):
        bare, found = _split(value)
        if found is not None and keep:
            _kept[_place(bare)] = found
        return bare
    if isinstance(value, Mapping):
        return {key: put_aside(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(put_aside(item, keep=keep) for item in value)
    return value


def credentials(url: str) -> Credentials:
    """The credentials for the place of a URL; empty ones if none are known."""
    return _kept.get(_place(url), Credentials("", {}))


def restored(url: str) -> str:
    """The URL with its credentials, for a library that takes them in no other way."""
    found = credentials(url)
    if found.user:
        url = url.replace("://", f"://{found.user_in_url}@", 1)
    for name, value in found.options.items():
        url += f"{'&' if '?' in url else '?'}{name}={value}"
    return url


def storage_options(url: str) -> dict[str, str]:
    """The credentials for a URL of storage, by the names that fsspec gives them."""
    user, options = found = credentials(url)
    if not user or url.startswith(("http:", "https:")):  # whose file system takes no user
        return dict(options)
    names = ("key", "secret") if url.startswith(("s3:", "s3a:")) else ("username", "password")
    return dict(zip(names, found.name_and_password, strict=True)) | options


def hidden(text: str) -> str:
    """`text` with asterisks in place of all credentials."""
    text = _IN_FRONT.sub(r"\g<scheme>://***@", text)
    text = _BEHIND.sub(r"\g<mark>\g<name>=***", text)
    for kept in _kept.values():
        name, password = kept.name_and_password
        for secret in (password or name, kept.user.partition(":")[2], *kept.options.values()):
            if len(secret) >= _SHORTEST:
                text = text.replace(secret, "***")
    return text


class Handover:
    """All credentials of this process, for one on another host; printed, it shows none."""

    def __init__(self) -> None:
        self._kept = dict(_kept)
        self._environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}

    def __repr__(self) -> str:
        return "credentials"

    def accept(self) -> None:
        """Makes them this process's own; what its environment has stays."""
        _kept.update(self._kept)
        for name, value in self._environment.items():
            os.environ.setdefault(name, value)


def _split(text: str) -> tuple[str, Credentials | None]:
    """A URL without credentials, and what it had of them."""
    if not _URL.match(text):
        return text, None
    found = _IN_FRONT.match(text)
    user = found["user"] if found else ""
    bare = _IN_FRONT.sub(r"\g<scheme>://", text, count=1) if found else text
    options = {match["name"]: match["value"] for match in _BEHIND.finditer(bare)}
    if not (user or options):
        return text, None
    bare = re.sub(r"\?&+", "?", _BEHIND.sub(r"\g<mark>", bare)).rstrip("?&")
    bare = re.sub(r"&{2,}", "&", bare)
    return bare, Credentials(user, options)


def _place(url: str) -> str:
    """Scheme and host, by which the credentials of a URL are found again."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme.lower()}{separator}{re.split('[/?#]', rest, maxsplit=1)[0]}"
