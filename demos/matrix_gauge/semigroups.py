"""Markov chains: uniformization with its bound, the laws of a semigroup, random walks, and large rates."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from demos.certificate import Certificate, certify
from demos.matrix_gauge import checks, lie
from demos.result import Table
from demos.runtime import seconds

TIME = 2.5  # of the Markov chain
STIFF = 1e4  # its largest rate times the time, where uniformization loses


def markov(random: np.random.Generator, draws: int) -> tuple[dict[str, Certificate], Table, float]:
    """Uniformization against scipy at three tolerances, the laws of a semigroup, and random walks."""
    q = np.asarray(lie.generator(jnp.asarray(random.exponential(size=(6, 6)))))
    x = random.uniform(-1, 1, 6)
    mean = TIME * float(-np.diag(q).min())
    tolerances = np.array([1e-3, 1e-6, 1e-12])
    terms = np.array([lie.terms_for(mean, tolerance) for tolerance in tolerances])
    found = np.array([lie.expmv(jnp.asarray(q), jnp.asarray(x), TIME, tolerance) for tolerance in tolerances])
    exact = checks.expm(TIME * q) @ x
    times = np.array([0.5, 0.5, 1.0]) * TIME
    half, whole = (np.asarray(lie.expmv(jnp.asarray(q), jnp.eye(6), t, 1e-15)) for t in times[1:])
    rest = np.linalg.lstsq(np.vstack((q.T, np.ones(6))), np.r_[np.zeros(6), 1.0])[0]
    average, error = lie.sampled_expmv(jnp.asarray(q), jnp.asarray(x), TIME, 3, draws, seed=int(random.integers(2**31)))
    certified = {
        "uniformization within its bound": certify(
            "matrix-gauge.uniformized",
            "e^tQ x misses scipy's by no more than the bound that was known before",
            1e-13,
            q=q,
            x=x,
            time=TIME,
            tolerances=tolerances,
            terms=terms,
            found=found,
        ),
        "P1 = 1, P >= 0, P_s P_t = P_(s + t)": certify(
            "matrix-gauge.semigroup",
            "P = e^tQ has rows that add up to 1, no negative entry, P_s P_t = P_(s + t), and a distribution that stays",
            1e-12,
            q=q,
            times=times,
            matrices=np.stack((half, half, whole)),
            rest=rest,
        ),
        "random walks, in standard errors": certify(
            "matrix-gauge.walks",
            f"the mean over {draws} random walks is e^tQ x, to 5 standard errors",
            5.0,
            q=q,
            x=x,
            time=TIME,
            state=3,
            mean=average,
            error=error,
        ),
    }
    rows = [
        (f"{count} terms", f"{lie.poisson_tail(mean, int(count)):.0e}", f"{checks.far(value, exact):.0e}")
        for count, value in zip(terms, found, strict=True)
    ]
    rows.append((f"{draws} random walks", f"{error:.0e}", f"{abs(average - exact[3]):.0e}"))
    table = Table(("e^tQ x by", "bound", "found"), tuple(rows), title="Error of a Markov chain")
    return certified, table, -float((np.eye(6) + TIME * q).min())


def stiff_chain(random: np.random.Generator) -> tuple[int, float, float]:
    """Terms of uniformization for a chain of large rates; seconds of scipy's exponential and of uniformization."""
    q = np.asarray(lie.generator(jnp.asarray(random.exponential(size=(6, 6)))))
    q = q * (STIFF / float(-np.diag(q).min()))
    x, given = random.uniform(-1, 1, 6), jnp.asarray(q)
    found = lie.expmv(given, jnp.asarray(x), 1.0)
    assert checks.far(checks.expm(q) @ x, np.asarray(found)) < 1e-9
    dense = seconds(checks.expm, q)
    return lie.terms_for(STIFF, 1e-12), dense, seconds(lie.expmv, given, jnp.asarray(x), 1.0)
