"""`mgr verify`: what holds is recomputed, what was damaged is named in one line, what is no export is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from staged_demos import outcome

import cli
from demos.certificate import certify, seal
from demos.result import export

Document = dict[str, Any]
U, V = np.array([0.0, 1.0]), np.array([1.0, 0.0])


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A file as `mgr run --export-json` writes it, with two certificates that can be recomputed."""
    made = (
        certify("reversible.cayley", "closed form", 1e-12, u=np.zeros(2), v=np.ones(2), matrix=np.eye(2)),
        certify("reversible.cayley:other", "closed form", 1e-12, u=U * 0, v=V, matrix=np.eye(2)),
    )
    export(replace(outcome("reversible"), certificates=made), tmp_path / "result.json")
    return tmp_path / "result.json"


def sealed(values: Document) -> None:
    """What a forger does after a change."""
    values["seal"] = seal({key: item for key, item in values.items() if key != "seal"})


def test_every_certificate_is_recomputed(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["verify", str(exported)]) == 0
    shown = capsys.readouterr().out
    assert "reversible.cayley" in shown and "seal intact" in shown and "BROKEN" not in shown


def test_a_changed_number_is_found(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(exported.read_text())
    document["certificates"][0]["witness"]["matrix"]["data"][0] = 1.5
    exported.write_text(json.dumps(document))
    assert cli.execute(["verify", str(exported), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["holds"] and [entry["holds"] for entry in answer["certificates"]] == [False, False, True]


def first(change: Callable[[Document], object], forged: bool = False) -> Callable[[Document], None]:
    """A damage to the first certificate, sealed again or not."""

    def damage(document: Document) -> None:
        change(document["certificates"][0])
        if forged:
            sealed(document["certificates"][0])

    return damage


def swap_witnesses(document: Document) -> None:
    one, two = document["certificates"]
    one["witness"], two["witness"] = two["witness"], one["witness"]


def rename_into_the_other(document: Document) -> None:
    document["certificates"][0]["id"] = "reversible.cayley:other"


def place(name: str, value: Any) -> Callable[[Document], None]:
    return lambda values: values["witness"]["matrix"].__setitem__(name, value)


def cut_digits(values: Document) -> None:
    values["witness"]["matrix"] = {"dtype": "int64", "shape": [2, 2], "data": [1, 0.4, 0, 1]}


ANY = "seal broken"
DAMAGE: dict[str, tuple[Callable[[Document], Any], str]] = {
    "witnesses of two certificates swapped": (swap_witnesses, ANY),
    "order of certificates": (lambda d: d["certificates"].reverse(), "the file was changed"),
    "a certificate left out": (lambda d: d["certificates"].pop(), "the file was changed"),
    "all left out, sealed again": (lambda d: (d["certificates"].clear(), sealed(d)), "no certificates"),
    "a certificate twice": (lambda d: d["certificates"].append(d["certificates"][0]), "another certificate has"),
    "seal of the file missing": (lambda d: d.pop("seal"), "the file was changed"),
    "another demo": (lambda d: d.update(demo="tropical"), "a certificate of another demo"),
    "a word of the statement": (first(lambda c: c.update(statement="open form")), ANY),
    "an id of the same check": (first(lambda c: c.update(id="reversible.cayley:third")), ANY),
    "the id of another certificate": (rename_into_the_other, "another certificate has"),
    "an id without a check": (first(lambda c: c.update(id="reversible.nothing"), forged=True), "need one of"),
    "an id that is a number": (first(lambda c: c.update(id=3), forged=True), "got id of type int"),
    "an id that reads as markup": (first(lambda c: c.update(id="[/red]"), forged=True), "another demo"),
    "an id that no terminal can show": (first(lambda c: c.update(id="x.\ud800"), forged=True), "another demo"),
    "a key missing": (first(lambda c: c.pop("tolerance")), "got no tolerance"),
    "a key too many": (first(lambda c: c.update(note="x")), ANY),
    "a seal that is null": (first(lambda c: c.update(seal=None)), "got seal of type NoneType"),
    "text for a number": (first(lambda c: c.update(value="0"), forged=True), "got value of type str"),
    "a number for a truth value": (first(lambda c: c.update(holds=1), forged=True), "got holds of type int"),
    "no witness": (first(lambda c: c.update(witness={}), forged=True), "cannot be checked"),
    "a witness that is a list": (first(lambda c: c.update(witness=[]), forged=True), "got witness of type list"),
    "a witness too many": (first(lambda c: c["witness"].update(w=1), forged=True), "cannot be checked"),
    "a shape that does not fit": (first(place("shape", [3]), forged=True), "malformed"),
    "a shape left open": (first(place("shape", [-1, 2]), forged=True), "with other data"),
    "a type that cuts digits": (first(cut_digits, forged=True), "with other data"),
    "a type that is none": (first(place("dtype", "floaty"), forged=True), "malformed"),
    "a type of objects": (first(place("dtype", "object"), forged=True), "cannot be checked"),
    "text in an array": (first(place("data", ["1", "0", "0", "1"]), forged=True), "with other data"),
    "an integer beyond all floats": (first(place("data", [10**400, 0, 0, 1]), forged=True), "malformed"),
    "a tolerance beyond all floats": (first(lambda c: c.update(tolerance=10**400), forged=True), "malformed"),
    "a claim that does not hold": (first(lambda c: c.update(holds=False), forged=True), "does not hold"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named_in_one_line(
    damage: Callable[[Document], Any], said: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(exported.read_text())
    damage(document)
    exported.write_text(json.dumps(document))
    assert cli.execute(["verify", str(exported), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    broken = [entry["reason"] for entry in answer["certificates"] if not entry["holds"]]
    assert not answer["holds"] and all("\n" not in reason for reason in broken)
    assert any(said in reason for reason in broken), broken
    assert cli.execute(["verify", str(exported)]) == 1
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "{", "[]", '{"certificates": 3}', '{"certificates": [NaN]}', "[" * 100_000, "{}"),
        '{"certificates": [], "schema": "mgr.demo.v1", "numbers": {"n": 1e999}}',
        '{"certificates": [], "schema": "mgr.demo.v2"}',
        '{"certificates": [], "schema": "mgr.run-all.v1"}',
    ],
)
def test_what_is_no_export_is_refused(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        (tmp_path / "x.json").write_text(text)
    assert cli.execute(["verify", str(tmp_path / "x.json")]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "x.json" in sentence and "need a file that mgr run --export-json wrote" in sentence


def test_a_file_cut_short_or_no_text_is_refused(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = exported.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-2], b"\xff\xfe" + whole):
        exported.write_bytes(part)
        assert cli.execute(["verify", str(exported)]) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert "no JSON" in sentence and "need a file that mgr run --export-json wrote" in sentence
    assert cli.execute(["verify", str(exported.parent)]) == 2
