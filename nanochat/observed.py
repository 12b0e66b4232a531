r"""What the heads of finished runs do, on held-out text: one number per layer, head and measure; seeds are the unit.

Of every mixer: **entropy** :math:`-\sum_j a_{ij} \ln a_{ij}` of where a query looks, in nats, where it has weights over
tokens (uniform over t: ln t; one token: 0); **diversity**, the mean over the other heads of the Jensen-Shannon
divergence of their weights (bits, 0 to 1; source: doi:10.1109/18.61115), or, without weights, **unlikeness**, that of
1 - linear CKA of head outputs (0 to 1; source: arXiv:1905.00414). What else there is to see, its probe says
(:mod:`nanochat.observe`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.architecture import plan
from nanochat.attention import MIXERS
from nanochat.block import BLOCKS
from nanochat.config import ConfigError, DataConfig, GPTConfig, OptimConfig, RunConfig, TrainConfig
from nanochat.observe import PROBES
from nanochat.observe.registry import Measure
from nanochat.record import SUMMARY, identity

if TYPE_CHECKING:
    import numpy as np
    import torch

    from nanochat.gpt import GPT

MOST_WINDOWS = 16
"""Held-out windows that are looked at: the longest ones, all cut to one length."""

ENTROPY = Measure("entropy", "nats", "of where a query looks")
DIVERSITY = Measure("diversity", "bits", "Jensen-Shannon divergence of a head's weights from the other heads', mean")
UNLIKENESS = Measure("unlikeness", "0 to 1", "1 - linear CKA of a head's output and the other heads', mean")


@dataclass(frozen=True, slots=True)
class Observed:
    """Heads of runs of one configuration.

    Args:
        runs: folders.
        seeds: of their training.
        mixers: name by layer.
        measures: by name.
        values: (runs, L, H) by measure; NaN where a layer's mixer does not have it.
        windows, tokens: what was looked at.
    """

    runs: tuple[Path, ...]
    seeds: tuple[int, ...]
    mixers: tuple[str, ...]
    measures: Mapping[str, Measure]
    values: Mapping[str, np.ndarray]
    windows: int
    tokens: int


def read(folder: Path) -> RunConfig:
    """The configuration of a finished run that kept its weights.

    Raises:
        ConfigError: no such run, or no weights.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError([f"RUN: got {folder}, need the folder of a run of python -m nanochat.train"])
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = dict(found["model"])
        model["knobs"] = {name: _knobs(name)(**values) for name, values in model["knobs"].items()}
        parts = (DataConfig(**found["data"]), OptimConfig(**found["optim"]), TrainConfig(**found["train"]))
        config = RunConfig(model=GPTConfig(**model), data=parts[0], optim=parts[1], train=parts[2])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"RUN: got {folder}, whose config.json is no run's configuration: {error}"]) from error
    if not (folder / SUMMARY).is_file():
        raise ConfigError([f"RUN: got {folder}, which has not finished; need one with {SUMMARY} (or --resume it)"])
    if not (folder / "latest.json").is_file():
        raise ConfigError([f"RUN: got {folder}, which kept no weights, need one with latest.json"])
    return config


def _knobs(name: str) -> Any:
    return (MIXERS if name in MIXERS else BLOCKS).get(name).knobs


def same(folders: Sequence[Path]) -> list[RunConfig]:
    """Configurations of runs that differ by their seed alone.

    Raises:
        ConfigError: they differ in more, or a seed comes twice.
    """
    configs = [read(folder) for folder in folders]
    first = _but_seed(configs[0])
    for folder, config in zip(folders[1:], configs[1:], strict=True):
        other = _but_seed(config)
        named = [f"{part}.{name}" for part in first for name in first[part] if first[part][name] != other[part][name]]
        if named:
            raise ConfigError(
                [f"RUN: got {folders[0]} and {folder}, which differ in {', '.join(named)}, need seeds only"]
            )
    seeds = [config.train.seed for config in configs]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            [f"RUN: got seeds {', '.join(map(str, seeds))}, need each once: equal runs are no repetition"]
        )
    return configs


def _but_seed(config: RunConfig) -> dict[str, dict[str, Any]]:
    found = identity(config)
    del found["train"]["seed"]
    return found


def observe(folders: Sequence[Path], report: Callable[[str], None] = lambda line: None) -> Observed:
    """Look into the heads of finished runs.

    Raises:
        ConfigError: see :func:`read` and :func:`same`; damaged weights.
    """
    configs = same(folders)
    import numpy as np

    from nanochat.data import open_dataset

    dataset = open_dataset(configs[0].data, configs[0].model.vocab_size, report=report)
    windows = dataset.eval_set.windows(configs[0].model.sequence_len)
    lengths = (windows.targets >= 0).sum(1)
    order = np.argsort(-lengths, kind="stable")[:MOST_WINDOWS]
    count = 1 + int(np.argmax(lengths[order] * np.arange(1, len(order) + 1)))  # most text, with no padding in it
    inputs = windows.inputs[order[:count], : lengths[order[count - 1]]]
    found = [look(_model(folder, config), inputs) for folder, config in zip(folders, configs, strict=True)]
    mixers = tuple(record.name for record in plan(configs[0].model).mixers)
    measures = {measure.name: measure for name in mixers for measure in _measures(name)}
    measures = {name: measure for name, measure in measures.items() if any(name in layer for layer in found[0])}
    heads = configs[0].model.n_head
    blank = np.full(heads, np.nan)
    values = {name: np.array([[layer.get(name, blank) for layer in run] for run in found]) for name in measures}
    seeds = tuple(config.train.seed for config in configs)
    return Observed(tuple(folders), seeds, mixers, measures, values, len(inputs), inputs.size)


def _measures(name: str) -> tuple[Measure, ...]:
    return (ENTROPY, DIVERSITY, UNLIKENESS, *(PROBES.get(name).measures if name in PROBES else ()))


def _model(folder: Path, config: RunConfig) -> GPT:
    from nanochat import checkpoint
    from nanochat.gpt import GPT
    from nanochat.record import config_hash

    found = checkpoint.load(folder, config_hash(config), lambda line: None)
    assert found is not None, "latest.json was there"
    weights = found[1]["model"]
    rows = weights["embed.weight"].shape[0]  # the text may have given a smaller vocabulary than asked for
    model = GPT(replace(config.model, vocab_size=rows))
    model.load_state_dict(weights)
    return model


def look(model: GPT, inputs: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Measures of every layer, (H,) each.

    Args:
        model: on the CPU.
        inputs: (B, T) tokens of text.
    """
    import torch

    from nanochat.initialise import Mixer

    mixers = [module for module in model.modules() if isinstance(module, Mixer)]
    names = [record.name for record in plan(model.config).mixers]
    caught: dict[Any, tuple[Any, ...]] = {}
    outputs: dict[Any, torch.Tensor] = {}

    def entered(module: Any, given: tuple[Any, ...]) -> None:
        caught[module] = given

    def left(mixer: Any) -> Callable[[Any, tuple[Any, ...]], None]:
        def keep(module: Any, given: tuple[Any, ...]) -> None:
            outputs[mixer] = given[0].unflatten(-1, (model.config.n_head, -1)).transpose(1, 2)

        return keep

    hooks = [mixer.register_forward_pre_hook(entered) for mixer in mixers]
    hooks += [mixer.get_submodule("out").register_forward_pre_hook(left(mixer)) for mixer in mixers]
    model.eval()
    with torch.no_grad():
        try:
            model(torch.from_numpy(inputs))
        finally:
            for hook in hooks:
                hook.remove()
        seen = [
            PROBES.get(name).load()(mixer, *caught[mixer][:2]) if name in PROBES else None
            for name, mixer in zip(names, mixers, strict=True)
        ]
    return [measured(each, outputs[mixer]) for each, mixer in zip(seen, mixers, strict=True)]


def measured(seen: Any, output: torch.Tensor) -> dict[str, np.ndarray]:
    """The measures of one layer, (H,) each.

    Args:
        seen: what its probe saw, :class:`nanochat.observe._seen.Seen`; None where it has none.
        output: (B, H, T, D), what its heads give to the output projection.
    """
    found: dict[str, torch.Tensor] = {}
    if seen is not None and seen.weights is not None:
        weights = seen.weights.transpose(0, 1).flatten(1, 2)
        found["entropy"] = entropy(weights).mean(-1)
        if len(weights) > 1:
            found["diversity"] = to_others(weights, divergence)
    elif output.shape[1] > 1:
        found["unlikeness"] = to_others(output.transpose(0, 1).flatten(1, 2).double(), unlikeness)
    for name, value in ({} if seen is None else seen.own).items():
        found[name] = value if value.ndim == 1 else value.mean((0, 2))
    return {name: value.double().numpy() for name, value in found.items()}


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """(..., S) distributions to (...) nats."""
    return -weights.xlogy(weights).sum(-1)


def divergence(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean Jensen-Shannon divergence of the rows of two heads' weights, bits."""
    import math

    between = entropy((one + other) / 2) - (entropy(one) + entropy(other)) / 2
    return float(between.mean()) / math.log(2)


def unlikeness(one: torch.Tensor, other: torch.Tensor) -> float:
    """1 - linear CKA of two heads' outputs (tokens, D)."""
    one, other = one - one.mean(0), other - other.mean(0)
    own = (one.mT @ one).norm() * (other.mT @ other).norm()
    return float(1 - (one.mT @ other).square().sum() / own) if own > 0 else 0.0


def to_others(heads: torch.Tensor, distance: Callable[[torch.Tensor, torch.Tensor], float]) -> torch.Tensor:
    """Mean distance of every head to the others, (H, ...) to (H,)."""
    import torch

    count = len(heads)
    table = torch.zeros(count, count, dtype=torch.float64)
    for at in range(count):
        for other in range(at):
            table[at, other] = table[other, at] = distance(heads[at], heads[other])
    return table.sum(1) / (count - 1)
