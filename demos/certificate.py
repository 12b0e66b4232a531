"""Certificates: a statement about the object a demo built or trained, with a witness that lets anyone recompute it.

A certificate names a *check*, a plain numpy function of its witness that returns one number; the statement holds when
that number is at most the tolerance. :func:`verify` runs the check again on the witness, without the demo and without
jax, and compares; a seal (SHA-256 of the canonical JSON) makes the change of any single digit visible, also of one that
would leave the statement true.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from demos.registry import DEMOS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

SLACK = 1e-9  # relative: another machine's libm may round the last digits of a recomputed value differently
UNBOUNDED = sys.float_info.max  # stands for infinity and NaN, which JSON lacks: a check that overflows does not hold


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A checked statement.

    Args:
        id: ``demo.name`` or ``demo.name:label``; its check is ``CHECKS[name]`` of ``demos.<demo>.checks``.
        statement: one sentence.
        value: what the check returned: an error, or a count of violations.
        tolerance: the largest value for which the statement holds.
        holds: ``value <= tolerance``.
        witness: arrays and numbers from which the check recomputes the value.
        seal: SHA-256 of all of the above.
    """

    id: str
    statement: str
    value: float
    tolerance: float
    holds: bool
    witness: Mapping[str, Any]
    seal: str

    def to_json(self) -> dict[str, Any]:
        """Strict JSON values; arrays become ``{dtype, shape, data}`` and keep every bit."""
        return _body(self) | {"seal": self.seal}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Certificate:
        """The inverse of :meth:`to_json`. Raises ``ValueError`` when a field is missing or of another kind."""
        need = ("id", "statement", "value", "tolerance", "holds", "witness", "seal")
        if missing := [name for name in need if name not in values]:
            raise ValueError(f"certificate: got no {', '.join(missing)}, need {', '.join(need)}")
        if not isinstance(values["witness"], Mapping):
            raise ValueError(f"certificate {values['id']!r}: got a witness that is no object")
        witness = {key: unpack(value) for key, value in values["witness"].items()}
        fields: dict[str, Any] = {name: values[name] for name in need} | {"witness": witness}
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of :func:`verify`: ``reason`` says in one line what was found."""

    holds: bool
    value: float
    reason: str


class Unreadable(ValueError):
    """A file that holds no certificates."""


def certify(id: str, statement: str, tolerance: float, **witness: Any) -> Certificate:
    """Compute a certificate from its witness by the check that will also verify it.

    Args:
        id: ``demo.name`` or ``demo.name:label``.
        statement: one sentence.
        tolerance: the largest value for which the statement holds.
        witness: keyword arguments of the check: numpy arrays, numbers, strings.

    Example:
        >>> import numpy as np
        >>> certify("tropical.semiring", "...", 0.0, a=np.eye(2), b=np.eye(2), c=np.eye(2)).holds
        True
    """
    value = float(check(id)(**witness))
    value = value if math.isfinite(value) else UNBOUNDED
    unsealed = Certificate(
        id=id,
        statement=statement,
        value=value,
        tolerance=float(tolerance),
        holds=value <= tolerance,
        witness=witness,
        seal="",
    )
    return replace(unsealed, seal=seal(_body(unsealed)))


def verify(certificate: Certificate) -> Verdict:
    """Recompute a certificate from its witness, without running the demo.

    Fails when the seal is broken, the check does not know the witness, the recomputed value is another one, or the
    value exceeds the tolerance.
    """
    if seal(_body(certificate)) != certificate.seal:
        return Verdict(False, math.nan, "seal broken: a number or word was changed after it was made")
    try:
        value = float(check(certificate.id)(**certificate.witness))
    except (TypeError, ValueError, ArithmeticError, LookupError, ImportError) as error:
        return Verdict(False, math.nan, f"the witness cannot be checked: {error}")
    value = value if math.isfinite(value) else UNBOUNDED
    slack = SLACK * abs(certificate.value) + certificate.tolerance
    if abs(value - certificate.value) > slack:
        return Verdict(False, value, f"recomputed {value:.3g}, the certificate says {certificate.value:.3g}")
    if not value <= certificate.tolerance or not certificate.holds:
        return Verdict(False, value, f"does not hold: {value:.3g}, tolerance {certificate.tolerance:.3g}")
    return Verdict(True, value, f"holds: {value:.3g}, tolerance {certificate.tolerance:.3g}")


def read(path: Path) -> dict[str, Any]:
    """An exported file. Raises ``Unreadable`` where there is none, or one that is no JSON object with certificates."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}, need a file that mgr run --export-json wrote") from error
    except ValueError as error:
        raise Unreadable(f"{path}: no JSON ({error}), need a file that mgr run --export-json wrote") from error
    if not isinstance(document, dict) or not isinstance(document.get("certificates"), list):
        raise Unreadable(f"{path}: got no list of certificates, need a file that mgr run --export-json wrote")
    return document


def _refuse(constant: str) -> float:
    raise ValueError(f"got {constant}")


def verify_document(document: Mapping[str, Any]) -> dict[str, Verdict]:
    """Verify every certificate of an exported file, and the file's own seal under the key ``document``."""
    body = {key: value for key, value in document.items() if key != "seal"}
    intact = seal(body) == document.get("seal")
    verdicts = {"document": Verdict(intact, math.nan, "seal intact" if intact else "seal broken: the file was changed")}
    for index, values in enumerate(document.get("certificates", ())):
        try:
            certificate = Certificate.from_json(values)
            verdicts[certificate.id] = verify(certificate)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            name = values.get("id") if isinstance(values, Mapping) else None
            verdicts[str(name or f"certificate {index}")] = Verdict(False, math.nan, f"malformed: {error}")
    return verdicts


def check(id: str) -> Callable[..., float]:
    """The check behind a certificate's id. Raises ``ValueError`` for an id that no demo declares."""
    demo, _, rest = id.partition(".")
    name = rest.partition(":")[0]
    if demo not in DEMOS or not name.isidentifier() or name.startswith("_"):
        raise ValueError(f"certificate id: got {id!r}, need demo.check with a demo of the catalogue")
    module = importlib.import_module(f"demos.{demo.replace('-', '_')}.checks")
    if name not in module.CHECKS:
        raise ValueError(f"certificate id: got {id!r}, need one of {', '.join(module.CHECKS)}")
    return module.CHECKS[name]


def seal(document: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a document (sorted keys, shortest round-trip digits)."""
    text = json.dumps(plain(document), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(value: Any) -> Any:
    """JSON values of nested mappings, sequences, numbers and numpy arrays. Raises ``TypeError`` for anything else."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _pack(value)


def _pack(array: np.ndarray) -> dict[str, Any]:
    import numpy as np

    if not isinstance(array, np.ndarray | np.generic):
        raise TypeError(f"cannot write {type(array).__name__} as JSON: need numbers, strings, arrays")
    array = np.asarray(array)
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": array.ravel().tolist()}


def unpack(value: Any) -> Any:
    """The inverse of :func:`plain` for arrays; other values pass through."""
    import numpy as np

    if isinstance(value, Mapping) and set(value) == {"dtype", "shape", "data"}:
        return np.array(value["data"], dtype=value["dtype"]).reshape(value["shape"])
    return value


def _fields(certificate: Certificate) -> dict[str, Any]:
    return {name: getattr(certificate, name) for name in certificate.__slots__}


def _body(certificate: Certificate) -> dict[str, Any]:
    return {key: plain(value) for key, value in _fields(certificate).items() if key != "seal"}
