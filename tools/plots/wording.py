"""Numbers as people read them: as many digits as the sample supports, intervals, counts, times."""

import math
from typing import Dict, List, Optional, Sequence

MOST_DIGITS = 4


def digits_of(samples: Optional[float]) -> int:
    """Decimal places of a share of so many samples: the last one is the first that is finer than
    the standard error 1/(2√n) of a share of one half, so 44 samples have 2 and 10,000 have 3."""
    if not samples or samples < 1:
        return 2
    return max(1, min(MOST_DIGITS, math.ceil(math.log10(2 * math.sqrt(samples)) - 1e-9)))


def share(value: Optional[float], samples: Optional[float]) -> str:
    """A figure between 0 and 1, or a mean of such a sample; "–" where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits_of(samples)}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def interval(bounds: Optional[Sequence[float]], samples: Optional[float]) -> str:
    """"[0.27–0.56]", or nothing where there is no interval."""
    if not bounds or any(b is None for b in bounds):
        return ""
    return f"[{share(bounds[0], samples)}–{share(bounds[1], samples)}]"


def with_interval(value: Optional[float], bounds, samples: Optional[float]) -> str:
    """"0.41 [0.27–0.56]"."""
    return f"{share(value, samples)} {interval(bounds, samples)}".strip()


def percent(value: float) -> str:
    """Whole percents, but for the ends: what is not all is never called 100%."""
    if 0 < value < 0.005:
        return "less than 1%"
    if 0.995 <= value < 1:
        return "more than 99%"
    return f"{100 * value:.0f}%"


def count(number: int, one: str, many: str = "") -> str:
    """"1 image", "2,661 images"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """"a, b and c", "a, b and 7 more"."""
    shown: List[str] = [str(name) for name in names]
    if len(shown) > most:
        shown = shown[:most - 1] + [f"{len(names) - most + 1} more"]
    between = "; " if any("," in name for name in shown) else ", "
    return shown[0] if len(shown) == 1 else f"{between.join(shown[:-1])} and {shown[-1]}"


def duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.3g} h"


def energy(joules: float) -> str:
    """Watt hours, which a meter counts."""
    hours = joules / 3600
    return f"{hours:.3g} Wh" if hours < 1000 else f"{hours / 1000:.3g} kWh"


def significant(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}g}"


def chosen(score: Dict, name: str, label: Optional[str] = None) -> str:
    """A number that validation chose: "1.23"; of folds, each of which has its own: "1.1 to 1.3".
    With a label its threshold. "–" where there is none."""
    def of(member):
        return member.get(label) if label is not None and isinstance(member, dict) else member

    if score.get("cross_fitted"):
        numbers = [of(fold.get(name)) for fold in score["cross_fitted"]]
    else:
        member = score.get(name)
        if label is not None:
            member = ((member or {}).get("classes") or {}).get(label)
        numbers = [member.get("threshold") if isinstance(member, dict) else member]
    numbers = [number for number in numbers if number is not None]
    if not numbers:
        return "–"
    low, high = f"{min(numbers):.3g}", f"{max(numbers):.3g}"
    return low if low == high else f"{low} to {high}"
