r"""Numbers as people and models write them, exactly, and the units behind them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_LONGEST = 400  # characters
_EXPONENT = 400  # largest power of ten
_UNSIGNED = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+)(?:\.\d*)?|\.\d+"
_DECIMAL = re.compile(
    rf"(?P<digits>{_UNSIGNED})(?:[eE](?P<e>[-+]?\d+)|\s*(?:\\cdot|\*)\s*10\s*\^\s*(?:\{{(?P<braced>\s*[-+]?\d+\s*)\}}|(?P<power>\d)(?!\d)))?"
)
_FRACTION = re.compile(
    rf"(?:(?P<whole>\d+)\s*)?\\frac\{{\s*(?P<sign>[-+]?)\s*(?P<top>{_UNSIGNED})\s*\}}\{{\s*(?P<bottom>{_UNSIGNED})\s*\}}"
    rf"|(?:(?P<whole2>\d+)\s+)?(?P<top2>{_UNSIGNED})\s*/\s*(?P<bottom2>{_UNSIGNED})"
)
_ROUNDED = 6  # decimals from which a decimal may stand for a number it only comes near


@dataclass(frozen=True)
class Quantity:
    """A number, exactly as written."""

    value: Fraction
    decimals: int | None = None  # digits behind the point; None where there is no point
    percent: bool = False

    def equals(self, other: Quantity) -> bool:
        """Whether both are the same number.

        Of "50%" and a bare number the latter may be 50 as well as 0.5. A decimal with six digits or more behind the
        point may stand for a number that differs only behind them (0.333333 for 1/3).
        """
        if self.percent == other.percent:
            return self._near(other.value, other)
        percent, bare = (self, other) if self.percent else (other, self)
        return percent._near(bare.value, bare) or percent._near(bare.value * 100, bare)

    def _near(self, value: Fraction, other: Quantity) -> bool:
        if self.value == value:
            return True
        written = [
            (one.decimals, one is other) for one in (self, other) if one.decimals is not None
        ]
        if not written or min(written)[0] < _ROUNDED:
            return False
        decimals, is_other = min(written)
        short, exact = (value, self.value) if is_other else (self.value, value)
        last = Fraction(1, 10**decimals)
        difference = abs(short - exact)
        near = difference * 2 <= last or (difference < last and abs(short) < abs(exact))
        return near and difference * 10**5 <= abs(exact)


def quantity(text: str) -> Quantity | None:
    """The number that the whole text is, None where it is anything else. The text is in `latex.clean`'s spelling.

    Integers and decimals (thousands separated by commas or spaces, powers of ten), fractions, mixed numbers, percent.
    """
    if len(text) > _LONGEST:
        return None
    body = text.strip()
    percent = body.endswith("%")
    body = body.removesuffix("%").strip()
    sign = 1
    while body[:1] in ("-", "+", "("):
        if body[0] == "(":
            if not body.endswith(")"):
                return None
            body = body[1:-1].strip()
        else:
            sign = -sign if body[0] == "-" else sign
            body = body[1:].strip()
    if match := _DECIMAL.fullmatch(body):
        return _decimal(match, sign, percent)
    if match := _FRACTION.fullmatch(body):
        return _fraction(match, sign, percent)
    return None


def _decimal(match: re.Match[str], sign: int, percent: bool) -> Quantity | None:
    exponent = int(match["e"] or match["braced"] or match["power"] or 0)
    if abs(exponent) > _EXPONENT:
        return None
    digits = _plain(match["digits"])
    decimals = None
    if "." in digits and exponent == 0:
        decimals = len(digits) - digits.index(".") - 1
    return Quantity(sign * Fraction(digits) * Fraction(10) ** exponent, decimals, percent)


def _fraction(match: re.Match[str], sign: int, percent: bool) -> Quantity | None:
    top, bottom = match["top"] or match["top2"], match["bottom"] or match["bottom2"]
    denominator = Fraction(_plain(bottom))
    if denominator == 0:
        return None
    part = Fraction(_plain(top)) / denominator
    whole = match["whole"] or match["whole2"]
    if whole and (match["sign"] or part >= 1 or part.denominator == 1):
        return None  # a product, or nothing that anybody means
    if match["sign"] == "-":
        part = -part
    return Quantity(sign * (part + int(whole or 0)), None, percent)


def _plain(digits: str) -> str:
    """Digits that Fraction reads: no separators, a digit behind the point."""
    bare = digits.replace(",", "").replace(" ", "")
    return bare + "0" if bare.endswith(".") else bare


# --- units ------------------------------------------------------------------------------------------------------------

# Spellings of units that must not be taken for one another. All other words behind a number ("apples", "ways") say
# nothing about its value.
_SPELLINGS = {
    "millimetre": "mm millimeter millimeters millimetre millimetres",
    "centimetre": "cm centimeter centimeters centimetre centimetres",
    "metre": "m meter meters metre metres",
    "kilometre": "km kilometer kilometers kilometre kilometres",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yard yards",
    "mile": "mi mile miles",
    "gram": "g gram grams",
    "kilogram": "kg kilogram kilograms",
    "ounce": "oz ounce ounces",
    "pound": "lb lbs pound pounds",
    "second": "s sec second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr year years",
    "millilitre": "ml milliliter milliliters millilitre millilitres",
    "litre": "l liter liters litre litres",
    "gallon": "gal gallon gallons",
    "cent": "cent cents",
    "dollar": "usd dollar dollars",
    "euro": "eur euro euros",
    "degree": "degree degrees deg",
    "radian": "rad radian radians",
    "am": "am",
    "pm": "pm",
}
UNITS = {spelling: unit for unit, all_ in _SPELLINGS.items() for spelling in all_.split()}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}


def unit_of(words: str) -> str:
    """One name for a unit of `UNITS` and its power ("square feet" and "ft^2" are "foot2"); empty for any other words."""
    power = 1
    if match := re.search(r"\^\s*\{?\s*([23])\s*\}?", words):
        power, words = int(match[1]), words[: match.start()]
    names = []
    for word in re.findall(r"[a-z]+", words.lower().replace(".", "")):
        if word in _POWERS:
            power = _POWERS[word]
        elif word in UNITS:
            names.append(UNITS[word])
    if len(names) != 1:
        return ""  # none, or a quotient such as miles per hour
    return names[0] + (str(power) if power > 1 else "")
