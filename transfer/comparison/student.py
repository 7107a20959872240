"""Student's t with any real number of degrees of freedom, and how variances add up (Welch-Satterthwaite)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

ALPHA = 0.05  # error rate of every test and interval of the reports


def quantile(df: Any, alpha: Any = ALPHA) -> Any:
    """Two-sided critical value: ``P(|T| > value) = alpha`` for ``df`` degrees of freedom. Takes arrays."""
    from scipy.special import stdtrit

    return -stdtrit(df, np.asarray(alpha) / 2)  # the lower tail keeps its digits where alpha is tiny


def upper_tail(t: Any, df: Any) -> Any:
    """``P(T > t)``. Takes arrays."""
    from scipy.special import stdtr

    return stdtr(df, -np.asarray(t))


def two_sided_p(t: Any, df: Any) -> Any:
    """``P(|T| > |t|)``. Takes arrays."""
    return 2 * upper_tail(np.abs(t), df)


def satterthwaite(variances: Sequence[Any], degrees: Sequence[Any], total: Any = None) -> Any:
    """Degrees of freedom of a sum of independent variance estimates (Satterthwaite 1946, equation 17).

    ``variances``: the terms of the sum, each with its coefficient applied; a term may be negative. ``degrees``: theirs.
    ``total`` is given where it is not the plain sum. Takes arrays of one shape. Where all terms are 0, the smallest of
    ``degrees``.
    """
    used = sum(np.asarray(v, dtype=float) for v in variances) if total is None else total
    spread = sum(np.asarray(v, dtype=float) ** 2 / d for v, d in zip(variances, degrees))
    smallest = np.min(np.asarray(degrees, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, used**2 / spread, smallest)
