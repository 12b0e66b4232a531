"""Certificates come from what a demo trained, are recomputed without it, and do not survive a changed digit."""

import contextlib
import functools
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from played import played

from demos import registry
from demos.certificate import Certificate, canonical, certify, check, seal, verify, verify_document
from demos.result import Result, export

LAYER_CHECKS = ("exact", "inverse", "log_det")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, compiled: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(compiled))


def result(name: str) -> Result:
    return played(name, seed=3)


@functools.cache
def exported(name: str) -> str:
    return json.dumps(result(name).to_json(), allow_nan=False)


@pytest.fixture(params=registry.ready())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def by_id(name: str, check: str) -> Certificate:
    return next(item for item in result(name).certificates if item.id == f"{name}.{check}")


def remade(certificate: Certificate, **changes: object) -> Certificate:
    """The same certificate with another witness: what a demo whose object had gone wrong would have issued."""
    witness = dict(certificate.witness) | changes
    return certify(certificate.id, certificate.statement, certificate.tolerance, **witness)


def numbers(value: object, path: tuple = ()) -> list[tuple]:
    """Paths of all numbers in a JSON document."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in numbers(item, (*path, key))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in numbers(item, (*path, index))]
    return [path] if isinstance(value, int | float) and not isinstance(value, bool) else []


@contextlib.contextmanager
def mutated(document: dict, path: tuple) -> Iterator[None]:
    """The document with the number at a path changed by the least amount."""
    place = functools.reduce(lambda inside, key: inside[key], path[:-1], document)
    value = place[path[-1]]
    place[path[-1]] = value + 1 if isinstance(value, int) else math.nextafter(value, math.inf)
    yield
    place[path[-1]] = value


def test_every_certificate_holds_and_is_verified_from_the_file_alone(name: str) -> None:
    assert result(name).holds and len(result(name).certificates) >= 8
    verdicts = verify_document(json.loads(exported(name)))
    assert len(verdicts) == len(result(name).certificates) + 1
    assert all(verdict.holds for verdict in verdicts.values()), verdicts


def test_changing_any_number_in_the_file_breaks_it(name: str) -> None:
    document = json.loads(exported(name))
    places = numbers(document)
    random = np.random.default_rng(0)
    chosen = [places[i] for i in random.choice(len(places), 60, replace=False)]
    chosen += [path for path in places if path[-1] in ("value", "tolerance", "seed")]
    for path in chosen:
        with mutated(document, path):
            if path[0] == "certificates":
                (_, verdict) = verify_document({"certificates": [document["certificates"][path[1]]]}).values()
                assert not verdict.holds, path
            else:
                assert seal({key: item for key, item in document.items() if key != "seal"}) != document["seal"], path
    with mutated(document, chosen[0]):
        verdicts = verify_document(document)
    assert not verdicts["document"].holds and verify_document(document)["document"].holds


def test_what_is_sealed_is_every_number_to_its_last_bit(name: str) -> None:
    """The sealed text reads back as the document, so two documents never have one text: this covers all numbers."""
    document = json.loads(exported(name))
    body = {key: item for key, item in document.items() if key != "seal"}
    assert json.loads(canonical(body)) == body and seal(body) == hashlib.sha256(canonical(body).encode()).hexdigest()
    for values in document["certificates"]:
        own = {key: item for key, item in values.items() if key != "seal"}
        assert json.loads(canonical(own)) == own and seal(own) == values["seal"]


def test_a_forged_seal_does_not_help_against_recomputation(name: str) -> None:
    """Someone who changes the claimed value and seals again is found out by the witness."""
    for values in json.loads(exported(name))["certificates"]:
        values["value"] += 10 * max(values["tolerance"], 1.0)
        values["tolerance"] = 0.0
        values["seal"] = seal({key: item for key, item in values.items() if key != "seal"})
        assert not verify(Certificate.from_json(values)).holds, values["id"]


def test_a_result_is_strict_json_written_whole(name: str, tmp_path) -> None:
    path = tmp_path / "deep" / "result.json"
    export(result(name), path)
    export(result(name), path)
    assert json.loads(path.read_text()) == json.loads(exported(name)) and list(path.parent.iterdir()) == [path]
    assert set(json.loads(path.read_text())) >= {"demo", "config", "environment", "certificates"}


@pytest.mark.parametrize("layer", LAYER_CHECKS)
def test_trained_weights_are_in_the_witness(layer: str) -> None:
    witness = by_id("reversible", layer).witness
    assert np.abs(witness["f_into"]).max() > 0 and witness["f_into"].shape[-1] == 20


def test_margins_break_when_the_trained_layer_is_not_the_one_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wrong constant the radius is either broken from inside or not tight."""
    from demos.tropical import checks

    right = checks.radii
    for factor in (1.5, 0.5):
        monkeypatch.setattr(checks, "radii", lambda *a, f=factor: (*right(*a)[:2], f * right(*a)[2]))
        broken = remade(by_id("tropical", "margin"))
        assert not broken.holds and broken.value > 0


def test_input_margin_breaks_when_the_slope_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    from demos.tropical import checks

    right = checks.slopes
    monkeypatch.setattr(checks, "slopes", lambda *a: right(*a) / 20)
    assert not remade(by_id("tropical", "input_margin")).holds


BREAKS = {
    ("matrix-gauge", "rotation"): lambda w: {"exponential": w["exponential"] * 1.001},
    ("matrix-gauge", "planes"): lambda w: {"angles": w["angles"][::-1]},
    ("matrix-gauge", "symplectic"): lambda w: {"generator": w["generator"].T},
    ("matrix-gauge", "positive"): lambda w: {"exponential": -w["exponential"]},
    ("matrix-gauge", "nilpotent"): lambda w: {"generator": w["generator"] + 0.1 * np.eye(4)},
    ("matrix-gauge", "holonomy"): lambda w: {"axes": np.eye(3)[[0, 0]]},
    ("matrix-gauge", "conserved"): lambda w: {"form": np.eye(4)},
    ("matrix-gauge", "fusion"): lambda w: {"b": w["b"] * 1.1},
    ("matrix-gauge", "magnus"): lambda w: {"flows": w["flows"][::-1]},
    ("matrix-gauge", "uniformized"): lambda w: {"terms": w["terms"] - 1},
    ("matrix-gauge", "semigroup"): lambda w: {"rest": w["rest"][::-1]},
    ("matrix-gauge", "walks"): lambda w: {"mean": w["mean"] + 0.1},
    ("matrix-gauge", "same_layer"): lambda w: {"words": w["words"][:, ::-1]},
    ("matrix-gauge", "drift"): lambda w: {"last": -w["last"]},
    ("matrix-gauge", "plaquettes"): lambda w: {"mix": w["mix"][::-1]},
    ("tropical", "factorisation"): lambda w: {"roots": w["roots"] + 1e-6},
    ("tropical", "kleene_star"): lambda w: {"star": w["star"] + 1e-6},
    ("tropical", "hilbert_metric"): lambda w: {"x": w["x"] * 1e12},
    ("tropical", "constant"): lambda w: {"x": w["x"][::-1]},
    ("tropical", "semiring"): lambda w: {"a": w["a"] * 1e12 + 0.1},
    ("reversible", "exact"): lambda w: {"recovered": w["recovered"] + (np.arange(2) == 0)},
    ("reversible", "gradient"): lambda w: {"claimed": w["claimed"] * (1 + 1e-6)},
    ("reversible", "cayley"): lambda w: {"matrix": w["matrix"] + 1e-9},
    ("reversible", "memory"): lambda w: {"rebuilt": w["stored"]},
    ("reversible", "ledger"): lambda w: {"bits": w["bits"] - 1},
    ("reversible", "inverse"): lambda w: {"rounds": 40, "f_out": w["f_out"] * 1e6},
    ("reversible", "symplectic"): lambda w: {"q": w["q"] * 1e-3},
    ("reversible", "kepler_return"): lambda w: {"q": w["q"] * 1e-3},
    ("surreal", "arithmetic"): lambda w: {"sums": w["sums"] + (np.arange(len(w["sums"])) == 7)},
    ("surreal", "order"): lambda w: {"signs": -w["signs"]},
    ("surreal", "birthdays"): lambda w: {"days": w["days"] + 1},
    ("surreal", "growth"): lambda w: {"measured": w["measured"] ** 1.2},
    ("surreal", "scale"): lambda w: {"x": w["x"] * 1e-30},
    ("simplicial", "flag"): lambda w: {"triangles": w["triangles"][1:]},
    ("simplicial", "boundary"): lambda w: {"edges": w["edges"][:2]},
    ("simplicial", "holes"): lambda w: {"numbers": w["numbers"] + 1},
    ("simplicial", "hodge"): lambda w: {"harmonic": w["harmonic"] + w["gradient"], "gradient": 0 * w["gradient"]},
    ("simplicial", "diffusion:vertices"): lambda w: {"result": w["result"] * (1 - 1e-9)},
    ("simplicial", "diffusion:signed"): lambda w: {"times": w["times"] * 1.001},
    ("simplicial", "persistence"): lambda w: {"bars": w["bars"] * np.array([1, 1, 2])},
    ("simplicial", "match3"): lambda w: {"words": w["words"] * (np.arange(len(w["words"])) != 3)[:, None]},
    ("simplicial", "answers"): lambda w: {"k": w["k"][::-1]},
    ("simplicial", "folding"): lambda w: {"second_k": w["second_k"][::-1]},
    ("simplicial", "symmetry"): lambda w: {"form": "determinant", "frame": np.diag([1.0, 1.0, 2.0])},
    ("simplicial", "triangles"): lambda w: {"second_k": w["second_k"] * 0 + 1e-16},
    ("simplicial", "readout"): lambda w: {"changed": w["changed"] + 1e-6},
    ("nonstandard", "compounded"): lambda w: {"reached": w["reached"] * (1 + 1e-9)},
    ("nonstandard", "flow"): lambda w: {"times": w["times"] * (1 + 1e-6)},
    ("nonstandard", "downhill"): lambda w: {"path": w["path"][:, ::-1]},
    ("nonstandard", "saddle"): lambda w: {"values": -w["values"]},
    ("nonstandard", "stationary"): lambda w: {"temperature": w["temperature"] * (1 + 1e-9)},
    ("nonstandard", "cloud"): lambda w: {"places": w["places"] * 1.5},
    ("nonstandard", "krylov"): lambda w: {"y": w["y"] + 1e-6},
    ("nonstandard", "step"): lambda w: {"time": w["time"] * (1 + 1e-6)},
    ("nonstandard", "derivatives"): lambda w: {"direction": w["direction"] * (1 + 1e-6)},
    ("octonion", "chain"): lambda w: {"x": w["x"][::-1]},
    ("octonion", "exp_log"): lambda w: {"v": w["v"] * 2},
    ("octonion", "slerp"): lambda w: {"path": w["path"] ** 3},
    ("octonion", "norm:octonion"): lambda w: {"xy": w["xy"][:, ::-1]},
    ("octonion", "moufang:octonion"): lambda w: {"x": w["x"] * 1e9},
    ("octonion", "alternative"): lambda w: {"x": w["x"] * 1e9},
    ("octonion", "brackets:quaternion"): lambda w: {"size": 1.0},
    ("octonion", "brackets:octonion"): lambda w: {"z": np.eye(8)[[3]]},
    ("octonion", "same_form"): lambda w: {"k": w["k"][::-1]},
    ("octonion", "isometry"): lambda w: {"turned": w["turned"] * 1.001},
    ("octonion", "weights"): lambda w: {"turn": w["turn"] * 1.001},
    ("ordinal", "fundamental"): lambda w: {"members": [each[::-1] for each in w["members"]]},
    ("ordinal", "goodstein"): lambda w: {"number": w["number"] + 1},
    ("ordinal", "hydra"): lambda w: {
        "trees": w["trees"][:1] + w["trees"][2:],
        "ranks": w["ranks"][:1] + w["ranks"][2:],
    },
    ("ordinal", "streams"): lambda w: {"losses": w["losses"][::-1]},
    ("ordinal", "order"): lambda w: {"base": 2},
    ("ordinal", "sums"): lambda w: {"ordinary": w["natural"]},
    ("ordinal", "products"): lambda w: {"x": w["y"], "y": w["x"]},
    ("ordinal", "scale"): lambda w: {"losses": w["losses"] + 100},
    ("ordinal", "log"): lambda w: {"ranks": np.delete(w["ranks"], 2, 0), "steps": np.delete(w["steps"], 2)},
    ("ordinal", "rates"): lambda w: {"losses": w["losses"][::-1]},
    ("ordinal", "learned"): lambda w: {"weights": w["weights"] + 1e-6},
    ("knot-braid", "same"): lambda w: {"one": w["one"][:-1]},
    ("knot-braid", "normal"): lambda w: {"factors": w["factors"][::-1]},
    ("knot-braid", "decided"): lambda w: {"right": w["left"]},
    ("knot-braid", "alexander:knot"): lambda w: {"letters": w["letters"][:2]},
    ("knot-braid", "jones:knot"): lambda w: {"letters": np.abs(w["letters"])},
    ("knot-braid", "relation:R3"): lambda w: {"right": w["right"][::-1] * np.array([1, 1, -1])},
    ("knot-braid", "artin"): lambda w: {"table": w["table"] * 1.01},
    ("knot-braid", "executed"): lambda w: {"letters": -w["letters"]},
    ("knot-braid", "moved"): lambda w: {"right": -w["right"]},
    ("knot-braid", "reader"): lambda w: {"out": w["out"] * 1.001},
    ("knot-braid", "missed"): lambda w: {"modulus": 5},
    ("knot-braid", "unseen"): lambda w: {"letters": w["letters"][1:]},
    ("ultrametric", "arithmetic"): lambda w: {"product": w["product"][::-1]},
    ("ultrametric", "rational"): lambda w: {"valuation": w["valuation"] + 1},
    ("ultrametric", "prefix_valuation"): lambda w: {"shared": w["shared"] + 1},
    ("ultrametric", "product_formula"): lambda w: {"valuations": w["valuations"][::-1]},
    ("ultrametric", "lookup"): lambda w: {"found": w["found"] - (np.arange(len(w["found"])) == 3)},
    ("ultrametric", "strong_triangle"): lambda w: {"weights": -w["weights"]},
    ("ultrametric", "same_digits"): lambda w: {"symbols": w["symbols"][::-1]},
    ("ultrametric", "locality"): lambda w: {"step": w["step"] + 1e-9},
    ("ultrametric", "signature"): lambda w: {"planes": np.abs(w["planes"])},
    ("ifs-fractal", "contraction"): lambda w: {"s": w["s"] * 0.99},
    ("ifs-fractal", "fixed_point"): lambda w: {"matrices": w["matrices"] * 3},
    ("ifs-fractal", "collage"): lambda w: {"matrices": w["matrices"] * 3},
    ("ifs-fractal", "picture"): lambda w: {"decoded": w["image"]},
    ("ifs-fractal", "any_start"): lambda w: {"scale": w["scale"] * 3},
    ("ifs-fractal", "separation"): lambda w: {"points": w["points"][::-1]},
    ("ifs-fractal", "read"): lambda w: {"points": w["points"] + 0.02},
    ("ifs-fractal", "kept"): lambda w: {"values": w["values"][::-1]},
    ("ifs-fractal", "reindexed:moved"): lambda w: {"after_ratio": w["before_ratio"]},
    ("ifs-fractal", "reindexed:deeper"): lambda w: {"after_cells": w["after_cells"][::-1]},
    ("ifs-fractal", "reindexed:paired"): lambda w: {"after_corners": w["after_corners"][::-1]},
    ("ifs-fractal", "suffix"): lambda w: {"power": w["power"] * 1.01},
    ("ifs-fractal", "bracket"): lambda w: {"ratio": 1.01},
    ("ifs-fractal", "truncation"): lambda w: {"ratio": 1.01},
}


def test_gauge_invariance_fails_where_the_links_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """With frames that are not rotations, what is compared depends on them."""
    from demos.matrix_gauge import checks

    certificate, right = by_id("matrix-gauge", "gauge"), checks.elements
    monkeypatch.setattr(checks, "elements", lambda raw, group: 1.01 * right(raw, group))
    assert not remade(certificate).holds and not verify(certificate).holds


@pytest.mark.parametrize(("name", "check"), BREAKS)
def test_a_damaged_witness_does_not_hold(name: str, check: str) -> None:
    certificate = by_id(name, check)
    broken = remade(certificate, **BREAKS[name, check](dict(certificate.witness)))
    assert not broken.holds and not verify(broken).holds


@functools.cache
def sparse(score: str) -> Certificate:
    run = played("tropical", seed=3, sparse_train=True, score=score)
    return next(item for item in run.certificates if "uniform" in item.id)


@pytest.mark.parametrize("score", ["hilbert", "maxplus"])
def test_the_bound_of_the_sparse_layer_is_attained_and_breaks(score: str) -> None:
    certificate = sparse(score)
    witness = dict(certificate.witness)
    assert certificate.holds and verify(certificate).holds
    for damage in (
        {"bound": witness["bound"] * 0.99},
        {"offset": witness["offset"] + witness["bound"]},
        {"out": np.ones_like(witness["out"])},
        {"key": np.ones_like(witness["key"])},
    ):
        assert not remade(certificate, **damage).holds, damage


def test_a_layer_that_is_no_coupling_loses_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    """The determinant is measured on the map itself: a stack that shrinks shows."""
    from demos.reversible import checks

    certificate = by_id("reversible", "log_det")
    right = checks.forward
    monkeypatch.setattr(checks, "forward", lambda stack, *pair: tuple(0.999 * part for part in right(stack, *pair)))
    assert not remade(certificate).holds and not verify(certificate).holds


@pytest.mark.parametrize("id", ["tropical.nothing", "unknown.margin", "tropical", "ordinal.rank", "tropical.__init__"])
def test_an_id_without_a_check_is_refused(id: str) -> None:
    with pytest.raises((ValueError, ImportError), match="certificate id|demos.ordinal"):
        check(id)


def test_a_certificate_without_its_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="got no value, tolerance, holds, witness, seal"):
        Certificate.from_json({"id": "tropical.margin", "statement": ""})


def test_verification_needs_no_jax(tmp_path) -> None:
    path = tmp_path / "result.json"
    path.write_text(exported("reversible"))
    code = (
        "import json, sys; from demos.certificate import verify_document; "
        f"v = verify_document(json.load(open({str(path)!r}))); "
        "assert all(x.holds for x in v.values()), v; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
