"""Patience, annealing and restarts counted down by one ordinal: no stream of losses keeps the schedule going."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nanochat.config import ConfigError, OptimConfig, common_faults, option
from nanochat.registry import ScheduleRecord
from nanochat.schedule import _certificate
from nanochat.schedule._cantor import Cantor, from_json, polynomial
from nanochat.schedule._watch import Watch, listening_faults
from nanochat.schedule.registry import SCHEDULES, Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class OrdinalKnobs:
    """Options of ``ordinal``."""

    restarts: int = option(1, "A, how often the learning rate may go up again")
    anneals: int = option(5, "B, how often it may be cut between restarts")
    patience: int | None = option(
        None,
        "C, losses without an improvement at one level; if not given, what a run that never improves can pay for",
        unit="steps",
    )
    decay: float = option(0.5, "learning rate after a cut over that before it")
    restart_decay: float = option(0.5, "learning rate of a restart over that of the one before")
    epsilon: float = option(0.001, "smallest improvement of the smoothed loss, relative")
    smoothing: float = option(0.98, "decay of the loss's exponential average")
    reset_optimizer: bool = option(False, "a restart empties the optimizer's state")
    exhausted: str = option("hold", "at rank 0: hold the last level, or stop training", choices=("hold", "stop"))

    def __post_init__(self) -> None:
        faults = common_faults(self) + listening_faults(self, "ordinal")
        for name in ("restarts", "anneals"):
            if getattr(self, name) < 0:
                faults.append(f"--ordinal-{name}: got {getattr(self, name)}, need at least 0")
        if not 0 < self.restart_decay <= 1:
            faults.append(f"--ordinal-restart-decay: got {self.restart_decay:g}, need more than 0 and at most 1")
        if faults:
            raise ConfigError(faults)

    def resolved(self, steps: int) -> OrdinalKnobs:
        """With the patience that a run of so many steps after warm-up can pay for at every level."""
        share = (steps + 1) // ((self.restarts + 1) * (self.anneals + 1)) - 1
        return self if self.patience is not None else replace(self, patience=max(1, share))


SCHEDULES.register(
    ScheduleRecord(
        name="ordinal",
        title="restarts, annealing, patience: one ordinal",
        source="arXiv:1608.03983 (restarts), doi:10.1112/blms/14.4.285 (ranks)",
        cls="Ordinal",
        knobs=OrdinalKnobs,
    ),
    __name__,
)


class Ordinal(Schedule):
    r"""The rank is an ordinal; each loss after warm-up that is no improvement is an event and lowers it.

    .. math:: \rho = \omega^2 a + \omega b + c, \qquad f = \max(r, \sigma^{A - a}\, \gamma^{B - b}),

    from :math:`\rho_0 = \omega^2 A + \omega B + C`. A successor goes down by one (``wait``). A limit gives up one of
    its smallest power for any smaller ordinal, here :math:`\omega \to C` (``anneal``) and
    :math:`\omega^2 \to \omega B + C` (``restart``); either measures what follows against the present average. At rank 0
    nothing is left. An improvement is free: it leaves the rank alone and does not refill the patience, which would
    raise it. So there are at most (A + 1)(B + 1)(C + 1) - 1 events, whatever the losses, and as many if none improves.
    """

    def __init__(self, optim: OptimConfig, total_steps: int):
        super().__init__(optim, total_steps)
        self.knobs: OrdinalKnobs = optim.knobs.get("ordinal", OrdinalKnobs()).resolved(total_steps - self.warmup_steps)
        self.watch = Watch(self.knobs.smoothing, self.knobs.epsilon)
        self.seen = 0
        self.rank = self._start()
        self.events = [self._event("begin", self.rank)]

    @property
    def _patience(self) -> int:
        assert self.knobs.patience is not None, "patience is resolved"
        return self.knobs.patience

    def _start(self) -> Cantor:
        return polynomial(self.knobs.restarts, self.knobs.anneals, self._patience)

    def _event(self, kind: str, rank: Cantor) -> dict[str, Any]:
        return {"step": self.seen, "event": kind, "rank": rank.to_json(), "factor": self._level(rank)}

    def _level(self, rank: Cantor) -> float:
        restarts = self.knobs.restarts - rank.coefficient(2)
        anneals = self.knobs.anneals - rank.coefficient(1)
        return float(max(self.optim.final_lr_fraction, self.knobs.restart_decay**restarts * self.knobs.decay**anneals))

    def after_warmup(self, step: int) -> float:
        return self._level(self.rank)

    def observe(self, loss: float) -> None:
        improved = self.watch.improved(loss)
        self.restarted = False
        if not improved and self.seen >= self.warmup_steps and self.rank:
            self._descend()
        self.seen += 1

    def _descend(self) -> None:
        """One event."""
        power = next(power for power in range(3) if self.rank.coefficient(power))
        kind = ("wait", "anneal", "restart")[power]
        patience = self._patience
        refill = (polynomial(), polynomial(patience), polynomial(self.knobs.anneals, patience))[power]
        self.rank = self.rank.without_last() + refill
        self.events.append(self._event(kind, self.rank))
        if power:
            self.watch.compare_anew()
        self.restarted = kind == "restart" and self.knobs.reset_optimizer

    @property
    def finished(self) -> bool:
        return not self.rank and self.knobs.exhausted == "stop"

    def state_dict(self) -> dict[str, Any]:
        return {"watch": self.watch.state_dict(), "seen": self.seen, "events": [dict(event) for event in self.events]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != set(self.state_dict()):
            raise ValueError(f"schedule state: got {sorted(state)}, need {sorted(self.state_dict())}")
        faults = _certificate.check(state["events"])
        if faults or from_json(state["events"][0]["rank"]) != self._start():
            raise ValueError(f"schedule state: got events of another schedule, {(faults or ['another first rank'])[0]}")
        self.watch.load_state_dict(state["watch"])
        self.seen = state["seen"]
        self.events = [dict(event) for event in state["events"]]
        self.rank = from_json(self.events[-1]["rank"])

    def log(self) -> dict[str, Any]:
        return {"knobs": asdict(self.knobs), "warmup_steps": self.warmup_steps, "events": self.events}
