r"""Units as files spell them -> what they measure, and lengths in nm.

A table of its own, and no library: TIFF, HDF5 and zarr are read without RosettaSciIO and what comes
with it, and no library knows all the spellings of microscopes, such as `[n_m]` and `$\AA^{-1}$`.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

Quantity = Literal["length", "reciprocal", "angle", "energy", "time", "unknown"]


class Unit(NamedTuple):
    """What a unit measures.

    Attributes:
        quantity: `reciprocal` is an inverse length, the unit of diffraction patterns; `unknown` is
            also that of pixels and of no unit.
        nm: Its length [nm], None if it is no length.
    """

    quantity: Quantity
    nm: float | None = None


_UNKNOWN = Unit("unknown")

# Short and long prefixes, as powers of ten; micro is u, see `_plain`.
_PREFIXES = {"": 0, "k": 3, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15}
_LONG_PREFIXES = dict(
    zip(
        ("", "kilo", "deci", "centi", "milli", "micro", "nano", "pico", "femto"),
        _PREFIXES.values(),
        strict=True,
    )
)
_NANOMETRES = {
    **{f"{prefix}m": 10.0 ** (power + 9) for prefix, power in _PREFIXES.items()},
    **{
        prefix + metre: 10.0 ** (power + 9)
        for prefix, power in _LONG_PREFIXES.items()
        for metre in ("meter", "metre")
    },
    **dict.fromkeys(("å", "a", "aa", "ang", "angstrom", "angstroem"), 0.1),
    **dict.fromkeys(("ångström", "ångstrom", "angström"), 0.1),
    **dict.fromkeys(("u", "micron"), 1e3),
    **dict.fromkeys(("in", "inch", "inche"), 2.54e7),  # "inches" without its s
    "bohr": 0.0529177,
}
_ANGLES = {
    *(f"{prefix}rad" for prefix in _PREFIXES),
    *(prefix + radian for prefix in _LONG_PREFIXES for radian in ("rad", "radian")),
    *("deg", "degree", "°", "arcsec", "arcmin", "theta", "θ", "twotheta", "tth"),
}
_ENERGIES = {
    *(f"{prefix}ev" for prefix in _PREFIXES),
    *(f"{prefix}electronvolt" for prefix in _LONG_PREFIXES),
    "megaelectronvolt",
}
_TIMES = {
    *(f"{prefix}s" for prefix in _PREFIXES),
    *(prefix + second for prefix in _LONG_PREFIXES for second in ("sec", "second")),
    *("min", "minute", "h", "hour"),
}
_PIXELS = {"px", "pix", "pixel", "pxl"}

_TEX = {
    **dict.fromkeys(("angstrom", "aa"), "å"),
    **dict.fromkeys(("mu", "micro", "textmu"), "u"),
    **dict.fromkeys(("meter", "metre"), "m"),
    **dict.fromkeys(("degree", "circ"), "°"),
    "nano": "n",
    "pico": "p",
    "milli": "m",
    "theta": "θ",
    "per": "/",
    "pi": "π",
}
# Greek mu, which micro is by now; kinds of hyphens, minus and dashes; of fractions and divisions.
_SIGNS = str.maketrans("\u03bc\u2010\u2011\u2012\u2013\u2212\u2044\u2215\u00f7", "u-----///")
_PER_PIXEL = r"[·*.]?(?:px|pix|pixel)s?(?:\^|\*\*)?-1$"
_RECIPROCAL = r"^(?:reciprocal|inverse|inv\.?|rec\.?)"


def parse_unit(unit: object) -> Unit:
    """What a unit measures, however it is spelt: `nm`, `[n_m]`, `1 / Å`, `$nm^{-1}$`, `2theta`.

    Args:
        unit: Text, bytes, or an array that holds one of them; all else is unknown.
    """
    values = np.ravel(np.asarray(unit, dtype=object))
    if len(values) != 1 or values[0] is None:
        return _UNKNOWN
    text = values[0]
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            text = text.decode("latin-1")
    return _parse(str(text))


@cache
def _parse(text: str) -> Unit:
    plain = _plain(text)
    if plain == "n/a":
        return _UNKNOWN
    plain = re.sub(_PER_PIXEL, "/px", plain)
    inverse, words = re.subn(_RECIPROCAL, "", plain)
    numerator, _, denominator = inverse.rpartition("/")
    if words:
        numerator, denominator = "", inverse
    elif without_power := re.fullmatch(r"(.+?)(?:\^|\*\*)?-1(?:\.0)?", plain):
        numerator, denominator = "", without_power[1]
    elif not denominator or "/" not in inverse:
        return _measured(plain)
    if denominator.removesuffix("s") in _PIXELS and _measured(numerator).nm:
        return _measured(numerator)  # nm/px
    if numerator.removesuffix("s") in _PIXELS:  # px/nm, in which the step is no pixel size
        return _UNKNOWN
    # 1/px is the unit of a Fourier transform; what else is inverse on an axis is no length either.
    is_length = _measured(denominator).quantity in ("length", "unknown")
    return Unit("reciprocal") if is_length else _UNKNOWN


def _measured(plain: str) -> Unit:
    """What a unit that is not inverse measures."""
    for name in (plain, plain.removesuffix("s")):  # in the plural; alone, s is a second
        if name in _NANOMETRES:
            return Unit("length", _NANOMETRES[name])
        if re.sub(r"^\d+[*-]?", "", name) in _ANGLES:  # 2theta
            return Unit("angle")
        if name in _ENERGIES:
            return Unit("energy")
        if name in _TIMES:
            return Unit("time")
    return _UNKNOWN


def _plain(text: str) -> str:
    """The unit in small letters, with u for micro, without blanks, brackets, TeX and the like."""
    # ImageJ writes escapes; the others are UTF-8 that was read as Latin-1.
    for wrong, right in ((r"\u00B5", "u"), (r"\u00C5", "Å"), ("Âµ", "u"), ("Ã…", "Å"), ("º", "°")):
        text = text.replace(wrong, right)
    # Superscripts become digits, and of several code points for one letter one remains.
    text = unicodedata.normalize("NFKC", html.unescape(text)).lower().strip().strip("\0")
    text = text.translate(_SIGNS)
    # TeX: commands that are units become their letters; those of layout (\mathrm, \text) go.
    text = re.sub(r"\\([a-z]+)", lambda command: _TEX.get(command[1], ""), text)
    text = re.sub(r"\bper\b", "/", text)
    # Berkeley EMD writes n_m and u_m.
    return re.sub(r"""[\s_$\\{}()\[\]<>"',]""", "", text).rstrip(".")
