"""The catalogue and the configuration of demos: light, complete, and clear about what is wrong."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from demos import registry
from demos.result import DemoConfig, DemoConfigError

NAMES = (
    "matrix-gauge ultrametric tropical simplicial nonstandard octonion ordinal "
    "reversible ifs-fractal knot-braid surreal"
)


def test_the_eleven_names_of_the_document_in_order() -> None:
    assert registry.names() == NAMES.split()
    assert registry.ready() == [name for name in registry.names() if registry.get(name).module]


@pytest.mark.parametrize("name", NAMES.split())
def test_every_entry_says_what_a_reader_needs(name: str) -> None:
    demo = registry.get(name)
    assert demo.title and demo.idea and demo.theorem and demo.papers and demo.page.endswith(".md")
    assert demo.twin.startswith(("--attention-type", "--optimizer-type", "--scheduler-type"))
    assert all(paper.startswith(("arXiv:", "doi:")) for paper in demo.papers)
    assert demo.status == (registry.READY if name in registry.ready() else registry.PLANNED)


def test_a_planned_demo_says_so() -> None:
    with pytest.raises(registry.Planned, match="'reversible' is planned, not built yet: ready are .*tropical"):
        replace(registry.get("reversible"), module="").load()


def test_an_unknown_name_gets_the_nearest_match() -> None:
    with pytest.raises(registry.UnknownDemo, match="unknown demo 'tropcal'.*did you mean 'tropical'"):
        registry.get("tropcal")


def test_catalogue_and_configuration_import_nothing_heavy() -> None:
    code = (
        "import sys; from demos.result import DemoConfig; DemoConfig(name='tropical'); "
        "assert not {'jax', 'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(DemoConfigError) as caught:
        DemoConfig(name="tropical", seed=-1, max_iterations=0, options={"score": "euclid", "rev_cayley": True})
    assert len(caught.value.faults) == 4
    assert "--seed: got -1, need 0 to 4294967295" in caught.value.faults
    assert "--score: got 'euclid', need one of hilbert, maxplus" in caught.value.faults


def test_options_take_their_defaults() -> None:
    assert DemoConfig(name="reversible").options == {"rev_cayley": False}
    assert DemoConfig(name="ultrametric").options == {"base": "3", "scale_compare": False}
    assert DemoConfig(name="tropical", options={"score": "maxplus"}).options == {
        "score": "maxplus",
        "sparse_train": False,
    }


def test_compiled_programs_go_to_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from demos.runtime import cache_directory

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "mgr" / "jax"
