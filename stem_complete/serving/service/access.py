"""Who may ask, and how often: tokens, of which only hashes are kept, and rates."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from stem_complete.errors import ConfigError

TOKEN_HASHES = "STEM_COMPLETE_TOKEN_HASHES"  # noqa: S105 - a variable's name
"""Environment variable with the hashes of the tokens that are let in, separated by blanks."""

_BYTES = 32
_HASH = re.compile(r"sha256:([0-9a-f]{32}):([0-9a-f]{64})")
_ID = re.compile(r"[0-9a-f]{32}")
_MOST_CLIENTS = 10_000


def new_token() -> tuple[str, str]:
    """A random token of 256 bits, and its salted hash.

    The token is as random as the hash is long, so that a slow hash would add nothing.
    """
    token = secrets.token_urlsafe(_BYTES)
    return token, hashed(token, secrets.token_bytes(16))


def hashed(token: str, salt: bytes) -> str:
    """`sha256:SALT:HASH` of a token."""
    return f"sha256:{salt.hex()}:{hashlib.sha256(salt + token.encode()).hexdigest()}"


def check_hashes(hashes: Sequence[str]) -> tuple[str, ...]:
    """The hashes, if they are such.

    Raises:
        ConfigError: One is something else, such as a token in clear.
    """
    for each in hashes:
        if not _HASH.fullmatch(each):
            raise ConfigError(
                expected="hashes of tokens, sha256:SALT:HASH",
                found="something else",
                where=TOKEN_HASHES,
                fix="make a token and its hash with `stem-complete serve --new-token`",
            )
    return tuple(hashes)


def is_known(token: str, hashes: Sequence[str]) -> bool:
    """Whether one of the hashes is that of the token; the time taken does not say which."""
    found = False
    for each in hashes:
        match = _HASH.fullmatch(each)
        assert match is not None
        found |= hmac.compare_digest(hashed(token, bytes.fromhex(match[1])), each)
    return found


def new_id() -> str:
    """A random name of 128 bits, which nobody can guess."""
    return secrets.token_hex(16)


def is_id(text: str) -> bool:
    """Whether a text may be such a name, and so a part of a path."""
    return _ID.fullmatch(text) is not None


class Rate:
    """A token bucket for each client.

    Args:
        per_s: Requests in the long run [1/s].
        burst: Requests at once.
        clock: Seconds, of which only differences count.
    """

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_s, self.burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: str) -> float:
        """Counts a request; how long the client is to wait before it may come [s], 0 if it may."""
        now = self._clock()
        left, since = self._buckets.pop(client, (float(self.burst), now))
        left = min(self.burst, left + (now - since) * self.per_s)
        may = left >= 1
        self._buckets[client] = (left - may, now)
        if len(self._buckets) > _MOST_CLIENTS:  # of which the oldest has a full bucket again
            self._buckets.popitem(last=False)
        return 0.0 if may else (1 - left) / self.per_s
