"""The paper's claims as statements that the full study can contradict, each with its verdict.

A statement is a difference that the claim says is positive, one value for each unit of
replication: a seed of the network where methods are compared, an agent where agents are. Opponents
are named beforehand; choosing the best one on the same data would favour it.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from .claims import verdict
from .inference import holm
from .plotting import LOOKS, percent
from .results import interval
from .statements import Statement, paired_gap, paired_statement

Tables = Mapping[str, pd.DataFrame]
RIVALS = ("magnitude", "snip", "grasp", "synflow", "iterative_snip", "force")
HEADLINE_RIVALS = ("synflow", "iterative_snip", "snip", "force")


def _worst(part: pd.DataFrame, rival: str, confidence: float) -> tuple[float, pd.Series, float]:
    """The sparsity that decides "above at every sparsity", the gains, and the level to test at.

    Choosing it is paid for by Bonferroni: with k sparsities, each interval is one of level
    1 - (1 - confidence) / k. One of them wholly below 0 contradicts the statement, however wide
    another is; one that holds 0 leaves it open. Of those that decide, it is the smallest gain.
    """
    gains = {
        rho: paired_gap(here, "method", "panning", rival) for rho, here in part.groupby("sparsity")
    }
    level = 1 - (1 - confidence) / len(gains)
    ends = {rho: interval(gain, level)[1:] for rho, gain in gains.items()}
    below = [rho for rho, (_, high) in ends.items() if high < 0]
    undecided = [rho for rho, (low, _) in ends.items() if not low > 0]
    worst = min(below or undecided or gains, key=lambda rho: gains[rho].mean())
    return worst, gains[worst], level


def claim_a(table: pd.DataFrame, confidence: float) -> list[Statement]:
    """Strong at every sparsity; most where the network underfits."""
    rows, of = [], ("points", "seeds", confidence)
    for task, part in table[table["method"] != "dense"].groupby("task", sort=False):
        targets = sorted(part["sparsity"].unique())
        wide = len(targets) > 4
        low, high = (targets[:2], targets[-2:]) if wide else (targets[:1], targets[-1:])
        for rival in (name for name in RIVALS if name in set(part["method"])):
            label, headline = LOOKS[rival].label, rival in HEADLINE_RIVALS
            everywhere = paired_gap(part, "method", "panning", rival)
            name = f"Panning is above {label} on {task}, mean over sparsities"
            rows.append(paired_statement("A: strong on average", name, everywhere, *of, headline))
            rho, gain, level = _worst(part, rival, confidence)
            name = f"Panning is above {label} on {task} at its worst sparsity, {percent(rho)}"
            row = ("A: strong at every sparsity", name, gain, "points", "seeds", level, headline)
            rows.append(paired_statement(*row))
            rows[-1]["p"] = min(1.0, rows[-1]["p"] * part["sparsity"].nunique())
            high_gap = paired_gap(part[part["sparsity"].isin(high)], "method", "panning", rival)
            low_gap = paired_gap(part[part["sparsity"].isin(low)], "method", "panning", rival)
            name = f"the gain on {label} is larger at the highest sparsities, {task}"
            gap = high_gap - low_gap
            row = ("A: most where the network underfits", name, gap, *of, headline)
            rows.append(paired_statement(*row))
        if "rlpanning" in set(part["method"]):
            gap = paired_gap(part, "method", "rlpanning", "panning")
            name = f"RLPanning is above Panning on {task}, mean over sparsities"
            rows.append(paired_statement("A: RLPanning", name, gap, *of, True))
    return rows


# How a statement of claim C says what was taken from Panning.
WITHOUT = {
    "reinitialised": "with its weights drawn anew",
    "inverted": "keeping the worst weights",
    "pixels": "scored on shuffled pixels",
    "labels": "scored on shuffled classes",
    "T = 1": "in a single step",
    "T = 3": "in three steps",
    "linear": "on a linear schedule",
    "masked": "with the gradients of the masked network",
}


def claim_c(tables: Tables, confidence: float) -> list[Statement]:
    """What helps: the return of weights, the schedule, the densities, or the choice of weights."""
    rows = []
    of = ("points", "seeds", confidence)
    for task, part in tables["claim_a"].groupby("task", sort=False):
        for other, claim in {
            "iterative_fused": "C: the return of removed weights helps",
            "panning+shuffled": "C: it is weights that are chosen, not only layer densities",
        }.items():
            if other in set(part["method"]):
                text = f"Panning is above {LOOKS[other].label} on {task}, mean over sparsities"
                gap = paired_gap(part, "method", "panning", other)
                rows.append(paired_statement(claim, text, gap, *of, True))
        if {"force", "iterative_snip"} <= set(part["method"]):  # which the return alone tells apart
            text = f"FORCE is above iterative SNIP on {task}, mean over sparsities"
            gap = paired_gap(part, "method", "force", "iterative_snip")
            claim = "C: the return of removed weights helps"
            rows.append(paired_statement(claim, text, gap, *of, True))
    choices = tables["choices"]
    for setting in ("T = 1", "T = 3", "linear"):
        # One by one: a network that one step alone kills would decide a mean over sparsities.
        for rho, part in choices.groupby("sparsity"):
            if setting in set(part["setting"]):
                gap = paired_gap(part, "setting", "Panning", setting)
                text = f"Panning is above itself {WITHOUT[setting]} at {percent(rho)}"
                row = ("C: the gradual process helps", text, gap, *of, setting != "linear")
                rows.append(paired_statement(*row))
    if "masked" in set(choices["setting"]):
        gap = paired_gap(choices, "setting", "Panning", "masked")
        text = f"Panning is above itself {WITHOUT['masked']}"
        rows.append(paired_statement("C: the dense network's gradients help", text, gap, *of, True))
    own = tables["checks"][tables["checks"]["method"] == "panning"]
    for check in ("reinitialised", "inverted", "pixels", "labels"):
        text = f"Panning is above itself {WITHOUT[check]}"
        gap = paired_gap(own, "check", "unchanged", check)
        rows.append(paired_statement("C: what the choice rests on", text, gap, *of, True))
    return rows


def metrics(tables: Tables, confidence: float) -> list[Statement]:
    """Whether the fusion screens better than its parts, and a search better than a person."""
    rows = []
    choices, of = tables["choices"], ("points", "seeds", confidence)
    for setting in choices.loc[choices["study"].isin(["metrics", "fusion"]), "setting"].unique():
        single = setting in ("SynFlow", "SNIP", "GraSP")
        name = "the product" if setting == "product" else f"{setting} alone" if single else setting
        headline = single or setting == "product"
        gap = paired_gap(choices, "setting", "Panning", setting)
        text = f"the hand-made fusion is above {name}"
        rows.append(paired_statement("Metrics: the fusion screens best", text, gap, *of, headline))
    found = tables["search"]
    for policy in found.loc[found["policy"].str.startswith("search"), "policy"].unique():
        text = f"the table of {policy} is above the hand-made one"
        gap = paired_gap(found, "policy", policy, "hand-made")
        rows.append(
            paired_statement("Metrics: a search finds a better table", text, gap, *of, True)
        )
    return rows


NOTEBOOKS = {"A": "08_claim_a", "B": "09_claim_b", "C": "10_claim_c", "Metrics": "11_metric_choice"}
ELSEWHERE = {
    "B: the agent learns": "07_learning",
    "B: the reward says what we want": "07_learning",
    "C: the return of removed weights helps": "08_claim_a",
    "C: it is weights that are chosen, not only layer densities": "08_claim_a",
    "C: the gradual process helps": "11_metric_choice",
    "C: the dense network's gradients help": "11_metric_choice",
}


def assemble(statements: Iterable[Statement]) -> pd.DataFrame:
    """The table of claims: verdicts by rule, p-values corrected within each claim (Holm 1979).

    A statement *holds* where all of its interval is above 0, is *contradicted* where all is below,
    and is *open* otherwise; `p_holm` says whether the verdict also stands after the correction.
    """
    table = pd.DataFrame(statements)
    letter = table["claim"].str.partition(":")[0]
    table["verdict"] = [verdict(*ends) for ends in zip(table["low"], table["high"], strict=True)]
    table["p_holm"] = table.groupby(letter)["p"].transform(lambda p: holm(p.to_numpy()))
    table["notebook"] = table["claim"].map(ELSEWHERE).fillna(letter.map(NOTEBOOKS))
    return table
