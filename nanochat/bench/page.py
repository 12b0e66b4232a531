"""``report.html``: one file without network, for a desk, a phone and paper. The answer comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from nanochat.bench import figures, tables
from nanochat.bench.report import command
from nanochat.bench.stylesheet import SCRIPT, STYLE, policy
from nanochat.bench.verdicts import ArmVerdict, Verdicts
from nanochat.bench.wording import (
    FLAG_MEANINGS,
    FLAGS,
    MEANINGS,
    MOST_NAMES,
    duration,
    headline,
    no_verdicts,
    number_text,
    overlap_note,
    plural,
    reservations,
    selftest_note,
    signed,
    span,
    told,
)

MOST_OPEN = 12
"""Arms up to which nothing is folded."""

MOST_PASSAGES = 5


def page(verdicts: Verdicts) -> str:
    """The whole document."""
    plan = verdicts.plan
    sections = {
        "verdicts": ("Verdicts", _verdicts(verdicts)),
        "costs": ("What it costs", _costs(verdicts)),
        "arms": ("Arm by arm", _arms(verdicts)),
        "numbers": ("Numbers behind the verdicts", _numbers(verdicts)),
        "checks": ("Checks", _checks(verdicts)),
        "design": ("How it was done", _design(verdicts)),
        "repeat": ("Repeat it", _repeat(verdicts)),
        "provenance": ("Where the numbers come from", _provenance(verdicts)),
        "terms": ("Terms", _terms(verdicts)),
    }
    contents = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, (name, _) in sections.items())
    body = "".join(f'<section id="{key}"><h2>{name}</h2>{inner}</section>\n' for key, (name, inner) in sections.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy()}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(f'{plan.name}: {headline(verdicts)}')}</title><style>{STYLE}</style></head><body>\n"
        f'<a class="skip" href="#verdicts">Skip to the verdicts</a>\n<header>{_header(verdicts)}</header>\n'
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n<main>\n{body}</main>\n'
        f'<p id="said" class="quiet" role="status"></p>\n<script>{SCRIPT}</script>\n</body></html>\n'
    )


def entries(given: Mapping[str, str]) -> str:
    """A list of terms and what is to be said of each, in HTML."""
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{text}</dd>" for key, text in given.items()) + "</dl>"


def _header(verdicts: Verdicts) -> str:
    plan = verdicts.plan
    doubts = "".join(f"<li>{escape(sentence)}</li>" for sentence in reservations(verdicts))
    when = verdicts.provenance["environment"]["started"][:10]
    return (
        f'<p class="over">Suite {escape(plan.name)}, {escape(when)}</p><h1>{escape(headline(verdicts))}</h1>'
        + (f'<p class="question">{escape(plan.config.question)}</p>' if plan.config.question else "")
        + (f'<ul class="reserved">{doubts}</ul>' if doubts else "")
        + entries(_facts(verdicts))
    )


def _facts(verdicts: Verdicts) -> dict[str, str]:
    """What was compared, on what evidence, whether it counts, and what it cost."""
    plan = verdicts.plan
    groups = len(plan.baselines)
    arms = ", ".join(plan.contenders) if len(plan.contenders) <= MOST_NAMES else plural(len(plan.contenders), "arm")
    compared = f"{escape(arms)} with {escape(plan.arms[0].text)}"
    if groups > 1:
        compared += f", each under its own optimizer and schedule ({groups} groups)"
    equal = {
        "flops": f"{number_text(plan.budget)} operations per run",
        "params": f"{number_text(plan.budget)} operations per run, and parameters",
        "time": f"seconds, those that {number_text(plan.budget)} operations take the baseline",
    }
    failed = [arm.label for arm in verdicts.arms if arm.audit.faults]
    runs = sum(arm.audit.runs for arm in verdicts.arms)
    checks = f"all passed, in {plural(runs, 'verdict run')}"
    if failed:
        checks = f"<b>{len(failed)} of {plural(len(verdicts.arms), 'arm')} failed</b>, see <a href='#checks'>checks</a>"
    return {
        "Compared": compared,
        "Equal": f"{equal[plan.config.match]}; text, batch, tokenizer, and effort of tuning",
        "Evidence": _evidence(verdicts),
        "Matters": f"from {plan.config.sesoi:g} bits per byte on, decided beforehand",
        "Checks": checks,
        "Engine": f'<span class="badge">{escape(selftest_note(verdicts))}</span>',
        "Cost": f"{verdicts.core_seconds / 3600:.2g} core-hours of training ({duration(verdicts.core_seconds)} of "
        f"processor time, {plural(sum(map(len, verdicts.runs.values())), 'run')})",
    }


def _evidence(verdicts: Verdicts) -> str:
    plan = verdicts.plan
    told = plural(len(plan.seeds), "paired seed")
    if len(plan.looks) > 1:
        told += f", looked at after {' and '.join(map(str, plan.looks))}"
    if plan.confirmation_seeds and not no_verdicts(verdicts):
        told += f"; a WIN is repeated on {len(plan.confirmation_seeds)} fresh seeds"
    return f"{told}; {plan.data.eval_documents} held-out passages"


def _groups(verdicts: Verdicts) -> list[tuple[str, list[ArmVerdict]]]:
    """Contenders by baseline, with what the group is called; one nameless group where there is one baseline."""
    plan = verdicts.plan
    found = []
    for base in plan.baselines:
        arm = plan.arm(base)
        name = f"{arm.optimizer}, schedule {arm.scheduler}" if len(plan.baselines) > 1 else ""
        found.append((name, [each for each in verdicts.contenders if each.against == base]))
    return found


def _verdicts(verdicts: Verdicts) -> str:
    plan = verdicts.plan
    alpha, sesoi = plan.config.alpha, plan.config.sesoi
    parts = []
    for name, arms in _groups(verdicts):
        parts.append(f"<h3>{escape(name)}: against {escape(arms[0].against)}</h3>" if name else "")
        parts.append(figures.forest(verdicts, arms, lambda arm: tables.link(verdicts, arm)))
    touching = any(arm.verdict in ("WIN", "LOSS") and (arm.low or 0) < 0 < (arm.high or 0) for arm in verdicts.arms)
    caption = (
        f"Difference to the baseline (Δ) in held-out bits per byte: left of the line is better. Bars are simultaneous "
        f"{1 - alpha:.0%} intervals; the grey band is ±{sesoi:g}, too small to matter. Filled dots: wins and losses."
        + " The test, which is stepwise, may decide where its interval still touches zero."
        * touching
    )
    present = [word for word in MEANINGS if any(arm.verdict == word for arm in verdicts.arms)]
    meanings = {word: MEANINGS[word] for word in present}
    raised = {flag for arm in verdicts.arms for flag in arm.flags}
    meanings |= {FLAGS[flag]: text for flag, text in FLAG_MEANINGS.items() if flag in raised}
    listed = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in meanings.items())
    return (
        f"<div role='group' aria-label='Forest plot'>{''.join(parts)}</div><p class='soft'>{escape(caption)}</p>"
        f"{tables.verdict_table(verdicts)}<dl class='soft'>{listed}</dl>"
        f"<p class='soft'>Seeds needed: to detect ±{sesoi:g} with 80 % power, from the spread seen here. Step time: "
        "seconds per step over the baseline's. A heading sorts its table.</p>"
    )


def _pictures(pictures: Iterable[figures.Picture], kind: str = "") -> str:
    inner = "".join(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for svg, caption in pictures if svg)
    return f'<div class="pictures {kind}">{inner}</div>' if inner else ""


def _costs(verdicts: Verdicts) -> str:
    drawn = [figures.budgets(verdicts), *(figures.pareto(verdicts, cost) for cost in figures.COSTS)]
    left = len(verdicts.arms) - len(figures.comparable(verdicts))
    text = "Lower and further left is better. The dotted line joins the arms that no other one beats in both; "
    text += "a hollow dot is a baseline. Dots are means: whether two of them differ is for the verdict to say."
    if left:
        text += f" Not drawn: {plural(left, 'arm')} without comparable runs."
    if not figures.comparable(verdicts):
        text = "No arm has runs that may be compared, so there is nothing to draw."
    return (
        _pictures(drawn, "wide")
        + f"<p class='soft'>{escape(text)}</p>"
        + _folded(verdicts, "As a table", tables.cost_table(verdicts))
    )


def _folded(verdicts: Verdicts, name: str, inner: str) -> str:
    """A part with a name of its own; folded where a suite is large."""
    shown = " open" if len(verdicts.arms) <= MOST_OPEN else ""
    return f'<details class="part"{shown}><summary>{escape(name)}</summary>{inner}</details>'


def _arms(verdicts: Verdicts) -> str:
    intro = (
        "Every picture shows the arm as a solid line or filled dots, and its baseline as a dashed line or hollow dots. "
        "Seeds: a line joins two runs on the same data and initial weights, dashed where the arm is worse. "
        "Learning: mean over seeds with its 95 % interval, without the first twentieth. Learning rate: tuning runs at "
        "an eighth (thin) and a quarter (thick) of the budget, a ring around the choice, a cross where runs diverged. "
        "Passages: held-out texts by their difference, mean over seeds; left is better. Scales differ from arm to arm."
    )
    parts = [f'<p class="soft">{escape(intro)}</p>']
    for number, (name, arms) in enumerate(_groups(verdicts)):
        inner = "".join(_arm(verdicts, arm) for arm in arms)
        if name:
            shown = "" if number else " open"
            title = f"{escape(name)}: {plural(len(arms), 'arm')}"
            inner = f'<details class="part"{shown}><summary>{title}</summary>{inner}</details>'
        parts.append(inner)
    return "".join(parts)


def _arm(verdicts: Verdicts, arm: ArmVerdict) -> str:
    difference = (
        f"{signed(arm.difference)} {span(arm.low, arm.high)} bits per byte" if arm.difference is not None else ""
    )
    return (
        f'<article id="{tables.anchor(verdicts, arm)}"><h3>{escape(arm.label)} {tables.word(arm)} '
        f"<small>{difference}</small></h3>{entries(_further(verdicts, arm))}"
        f"{_pictures(figures.Portrait(verdicts, arm).pictures())}{_passages(verdicts, arm)}</article>"
    )


def _further(verdicts: Verdicts, arm: ArmVerdict) -> dict[str, str]:
    """What there is to say of an arm beside its difference."""
    plan = verdicts.plan
    found: dict[str, str] = {}
    if arm.note:
        found["Note"] = escape(arm.note)
    if arm.flags:
        found["Reservation"] = escape("; ".join(FLAG_MEANINGS[flag] for flag in arm.flags))
    if arm.verdict in ("WIN", "LOSS", "TIE") and len(arm.bpb) < len(plan.seeds):
        found["Decided"] = f"after {len(arm.bpb)} of {len(plan.seeds)} seeds"
    if arm.confirmation is not None:
        found["Fresh seeds"] = escape(told(arm.confirmation))
    for share, comparison in arm.shares.items():
        found[f"At {share:g} of the budget"] = escape(told(comparison, change=True))
    if arm.time is not None:
        found["At equal seconds"] = escape(told(arm.time))
    gain = arm.effects.gain if arm.effects else None
    if gain is not None:
        outside = ", extrapolated" if gain.extrapolated else ""
        found["Worth in compute"] = (
            f"the baseline needs {gain.factor:.2f} [{gain.low:.2f}, {gain.high:.2f}] times the operations for the same "
            f"loss{outside}"
        )
    if len(arm.audit.faults) > 1:
        found["Failed checks"] = "<br>".join(map(escape, arm.audit.faults))
    return found


def _passages(verdicts: Verdicts, arm: ArmVerdict) -> str:
    """The held-out passages that changed most."""
    found = figures.by_document(verdicts, arm.label)
    if found is None:
        return ""
    ranked = np.argsort(found, kind="stable")
    chosen = [("better", at) for at in ranked[:MOST_PASSAGES] if found[at] < 0]
    chosen += [("worse", at) for at in ranked[::-1][:MOST_PASSAGES] if found[at] > 0]
    rows = "".join(
        f'<tr><td class="text">{kind}</td><td>{signed(float(found[at]))}</td><td>{at}</td>'
        f"{_begins(verdicts.passages, int(at))}</tr>"
        for kind, at in chosen
    )
    heads = {"read": "text", "Δ bits per byte": "", "passage": "", **({"begins": "text"} if verdicts.passages else {})}
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in heads.items())
    return (
        f'<details class="aside"><summary>Passages that changed most</summary><div class="scroll" role="region" '
        f'tabindex="0" aria-label="Passages of {escape(arm.label)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _begins(passages: Sequence[str], at: int) -> str:
    return f'<td class="text long"><code>{escape(passages[at])}</code></td>' if passages else ""


def _numbers(verdicts: Verdicts) -> str:
    gains = any(arm.effects and arm.effects.gain for arm in verdicts.contenders)
    notes = (
        "Seeds are the unit of replication in all of it. Sign flips: exact test without a normal distribution. Signed "
        "ranks count a diverged run as the worst. Equivalence: two one-sided tests within what matters.",
        "Secondary, not corrected for their number."
        + " Worth in compute: times its operations that the baseline needs for the same loss; * extrapolated." * gains,
        "Every arm has the same number of trials, on seeds that no verdict uses. Mean excess: how much worse, in bits "
        "per byte, the rates tried are than the best one. Δ at the baseline's rate: every arm at the rate that the "
        "baseline's search chose, in the shortest of these runs; what a comparison without a search would have seen.",
    )
    built = (
        ("Tests", tables.statistics_table),
        ("Effects", tables.effects_table),
        ("Learning rates", tables.tuning_table),
    )
    return "".join(
        _folded(verdicts, name, f"{make(verdicts)}<p class='soft'>{escape(note)}</p>")
        for (name, make), note in zip(built, notes, strict=True)
    )


def _checks(verdicts: Verdicts) -> str:
    note = (
        "Every verdict run is held to what was promised. Budget: operations spent over those allowed. Ledger: "
        "operations counted on an executed step over those computed beforehand. Score: a second scoring of the "
        "final weights, by the worker and not by the trainer. Leak: how much later tokens move earlier predictions. "
        "Replay: correlation of the last training losses, as reported, with those of the final weights on the batches "
        "that were planned."
    )
    return (
        _folded(verdicts, "By arm", tables.audit_table(verdicts))
        + f"<p class='soft'>{escape(note)}</p><p>{escape(overlap_note(verdicts))}</p>"
        + _selftests(verdicts)
    )


def _selftests(verdicts: Verdicts) -> str:
    """The engine's own tests, one by one."""
    found = verdicts.provenance["selftests"]["findings"]
    each = {entry["name"]: escape(_selftest(entry)) for entry in found}
    return f"<h3>Self-tests of the engine</h3><p>{escape(selftest_note(verdicts))}.</p>{entries(each) if each else ''}"


def _selftest(entry: Mapping[str, Any]) -> str:
    controls = sum(measure["control"] for measure in entry["measures"])
    numbers = f"{len(entry['measures'])} numbers" + (f", {controls} of them of wrong engines" if controls else "")
    said = f"; {entry['headline']}" if entry["headline"] else ""
    return f"{'passed' if entry['passed'] else 'FAILED'} {entry['date'][:10]} ({numbers}{said}). {entry['claim']}"


def _design(verdicts: Verdicts) -> str:
    plan = verdicts.plan
    alpha = plan.config.alpha
    looks = "once, at the end"
    if len(plan.looks) > 1:
        looks = (
            f"after {' and '.join(map(str, plan.looks))} seeds, with O'Brien and Fleming's bounds; nobody peeks between"
        )
    given = {
        "Told beforehand": "; ".join(verdicts.forecast),
        "Model": plan.size,
        "Text": f"{plan.data.data}, {plan.data.eval_documents} held-out passages of {plan.data.eval_bytes} bytes",
        "Tuning": f"learning rates in steps of two, complete runs at an eighth and a quarter of the budget, the best "
        f"two at all of it on {plural(len(plan.tuning_seeds), 'seed')}, the same for every arm",
        "Judged": looks,
        "Errors": f"at most {alpha:g} in the whole family of {plural(len(plan.contenders), 'comparison')} (Holm)",
        "Optimizer": f"{', '.join(plan.config.optimizers)}; schedule {', '.join(plan.config.schedulers)}",
        "Left out": "; ".join(f"{label}: {why}" for label, why in plan.excluded.items()),
        "Verdict seeds": _range(plan.seeds),
        "Fresh seeds": _range(plan.confirmation_seeds),
        "Pilot seeds": _range(plan.pilot_seeds),
        "Tuning seeds": _range(plan.tuning_seeds),
        "Design": f"{plan.design}, the hash of everything decided beforehand",
    }
    return entries({key: escape(text) for key, text in given.items() if text})


def _range(seeds: Sequence[int]) -> str:
    """Consecutive seeds."""
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else "".join(map(str, seeds))


def _repeat(verdicts: Verdicts) -> str:
    commit = verdicts.provenance["environment"]["commit"]
    at = f" at commit {commit[:12]}" if commit else ""
    text = (
        f"With the same text and versions{at}, every number here comes out again, times aside. Runs that the store "
        "still has are not trained anew, and the same command goes on after an interruption. "
        "summary.json beside this file has every number with the runs behind it."
    )
    return f"<pre><code>{escape(command(verdicts.plan.config))}</code></pre><p>{escape(text)}</p>"


def _provenance(verdicts: Verdicts) -> str:
    machine = verdicts.provenance["environment"]
    hashes = verdicts.provenance["hashes"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    code: dict[str, list[str]] = {}
    for label, digest in verdicts.provenance["code"].items():
        code.setdefault(digest[:16], []).append(label)
    given = {
        "Machine": f"{machine['processor']}, {machine['cores']} cores, {machine['platform']}",
        "Software": f"Python {machine['python']}, {versions}",
        "Commit": machine["commit"] or "not a checkout",
        "Corpus": hashes["data_hash"],
        "Tokenizer": hashes["tokenizer_hash"],
        "Held-out set": hashes["eval_hash"],
        "Code": "; ".join(f"{digest} ({', '.join(labels)})" for digest, labels in code.items()),
        "This call": f"began {machine['started']}, took {duration(verdicts.wall_seconds)}, trained "
        f"{plural(verdicts.trained, 'run')} and found {verdicts.served} in the store",
    }
    return entries({key: escape(text) for key, text in given.items()})


def _terms(verdicts: Verdicts) -> str:
    return entries(
        {
            "Arm": "one of the things compared: an attention type, perhaps with options of its own",
            "Baseline": "the arm that the others are compared with",
            "Bits per byte": "how many bits the model needs for a byte of held-out text; fewer is better, and it does "
            "not depend on the tokenizer",
            "Δ": "mean over seeds of arm minus baseline, on the same seed",
            "Paired seeds": "a seed fixes the order of the text and the initial weights; two arms on it are a pair",
            "Simultaneous interval": "made so that all of them together hold the truth at the stated level",
            "p": "how often chance alone gives a difference as large; corrected: for all arms and looks together",
            "Nats per token": "the training loss; a nat is 1.44 bits",
            "Operations": "additions, multiplications and comparisons of training, by the ledger of each mechanism",
            "Core-hour": "one processor core busy for an hour",
        }
    )
