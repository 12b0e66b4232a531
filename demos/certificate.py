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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from demos.registry import DEMOS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

SLACK = 1e-9  # relative: another machine's libm may round the last digits of a recomputed value differently
SCHEMA = "mgr.demo.v1"
SEAL_BROKEN = "seal broken: a number or word was changed after it was made"
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
        kinds = {"id": str, "statement": str, "value": float | int, "tolerance": float | int, "holds": bool}
        for name, kind in (kinds | {"witness": Mapping, "seal": str}).items():
            if not isinstance(values[name], kind) or (isinstance(values[name], bool) and kind is not bool):
                raise ValueError(f"certificate: got {name} of type {type(values[name]).__name__}")
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
        return Verdict(False, math.nan, SEAL_BROKEN)
    import numpy as np

    try:
        with np.errstate(all="ignore"):  # a check that overflows gives no small number, and that is what counts
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
    """An exported file. Raises ``Unreadable`` where there is none, or one that is no result with certificates."""
    need = "need a file that mgr run --export-json wrote"
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_finite)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}, {need}") from error
    except RecursionError as error:
        raise Unreadable(f"{path}: no JSON of a result (nested too deep), {need}") from error
    except ValueError as error:
        raise Unreadable(f"{path}: no JSON ({error}), {need}") from error
    if not isinstance(document, dict) or not isinstance(document.get("certificates"), list):
        raise Unreadable(f"{path}: got no list of certificates, {need}")
    if document.get("schema") != SCHEMA:
        raise Unreadable(f"{path}: got schema {document.get('schema')!r}, need {SCHEMA!r}, {need}")
    return document


def _refuse(constant: str) -> float:
    raise ValueError(f"got {constant}")


def _finite(digits: str) -> float:
    """A number that strict JSON can write again: 1e999 would be read as infinity."""
    return float(digits) if math.isfinite(float(digits)) else _refuse(digits)


def verify_document(document: Mapping[str, Any]) -> dict[str, Verdict]:
    """Verify every certificate of an exported file, and the file's own seal under the key ``document``."""
    certificates = document.get("certificates", ())
    verdicts = {"document": _intact(document, certificates)}
    for index, values in enumerate(certificates):
        name = values.get("id") if isinstance(values, Mapping) else None
        name = _printable(name) if isinstance(name, str) and name else f"certificate {index}"
        if name in verdicts:
            verdicts[f"{name}, again"] = Verdict(False, math.nan, "malformed: an id that another certificate has")
            continue
        try:
            verdicts[name] = _verify_values(values, document.get("demo"))
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            verdicts[name] = Verdict(False, math.nan, f"malformed: {error}")
    return verdicts


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _intact(document: Mapping[str, Any], certificates: Sequence[Any]) -> Verdict:
    body = {key: value for key, value in document.items() if key != "seal"}
    if not certificates:
        return Verdict(False, math.nan, "no certificates: nothing was shown")
    if seal(body) != document.get("seal"):
        return Verdict(False, math.nan, "seal broken: the file was changed")
    return Verdict(True, math.nan, "seal intact")


def _verify_values(values: Mapping[str, Any], demo: str | None) -> Verdict:
    """Verify one entry as it stands in the file: also what reading it as arrays would smooth over has to be sealed."""
    certificate = Certificate.from_json(values)
    if seal({key: value for key, value in values.items() if key != "seal"}) != certificate.seal:
        return Verdict(False, math.nan, SEAL_BROKEN)
    if demo is not None and certificate.id.partition(".")[0] != demo:
        return Verdict(False, math.nan, f"malformed: a certificate of another demo than {demo!r}")
    return verify(certificate)


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
    """SHA-256 of the canonical JSON of a document."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def canonical(document: Mapping[str, Any]) -> str:
    """JSON with sorted keys and shortest round-trip digits: one text for each document, and one document for each."""
    return json.dumps(plain(document), sort_keys=True, separators=(",", ":"), allow_nan=False)


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
    """The inverse of :func:`plain` for arrays; other values pass through.

    Raises ``ValueError`` for an array that ``plain`` would not write so: numbers that its type cannot hold, a shape
    that they do not fill.
    """
    import numpy as np

    if isinstance(value, Mapping) and set(value) == {"dtype", "shape", "data"}:
        array = np.array(value["data"], dtype=value["dtype"]).reshape(value["shape"])
        if _pack(array) != value:
            raise ValueError(f"an array of type {value['dtype']} and shape {value['shape']} with other data")
        return array
    return value


def _fields(certificate: Certificate) -> dict[str, Any]:
    return {name: getattr(certificate, name) for name in certificate.__slots__}


def _body(certificate: Certificate) -> dict[str, Any]:
    return {key: plain(value) for key, value in _fields(certificate).items() if key != "seal"}
