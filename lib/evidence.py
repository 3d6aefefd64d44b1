"""The paper's claims as statements that the full study can contradict, each with its verdict.

A statement is a difference that the claim says is positive, one value for each unit of
replication: a seed of the network where methods are compared, an agent where agents are. Opponents
are named beforehand; choosing the best one on the same data would favour it.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from .claims import verdict
from .inference import RESAMPLES, holm, p_value
from .plotting import LOOKS
from .results import interval

Tables = Mapping[str, pd.DataFrame]
Statement = dict[str, object]
RIVALS = ("magnitude", "snip", "grasp", "synflow", "iterative_snip", "force", "iterative_fused")
HEADLINE_RIVALS = ("synflow", "iterative_snip", "snip")
HEADLINE_TRANSFERS = {("return", "best constant"), ("accuracy", "hand-made")}
AXES = {
    "images": "with fewer images",
    "scale": "on other widths",
    "network": "on other architectures",
    "data": "on another data set",
}


def _statement(
    claim: str,
    statement: str,
    differences: Iterable[float],
    unit: str,
    of: str,
    confidence: float,
    headline: bool = False,
) -> Statement:
    """One row: the mean of `differences` over the units `of`; headlines are those README shows."""
    values = np.asarray(list(differences), dtype=float)
    mean, low, high = interval(values, confidence)
    numbers = {"difference": mean, "low": low, "high": high, "unit": unit, "n": len(values)}
    row = {"claim": claim, "statement": statement, **numbers, "of": of, "p": p_value(values)}
    return row | {"headline": headline}


def _gap(table: pd.DataFrame, column: str, first: str, second: str) -> pd.Series:
    """First - second in points of accuracy, a value a seed: the mean over all other axes."""
    wide = table[table[column].isin([first, second])].pivot_table(
        index="seed", columns=column, values="accuracy"
    )
    return 100 * (wide[first] - wide[second]).dropna()


def claim_a(table: pd.DataFrame, confidence: float) -> list[Statement]:
    """Strong at every sparsity; most where the network underfits."""
    rows, of = [], ("points", "seeds", confidence)
    for task, part in table[table["method"] != "dense"].groupby("task", sort=False):
        targets = sorted(part["sparsity"].unique())
        wide = len(targets) > 4
        low, high = (targets[:2], targets[-2:]) if wide else (targets[:1], targets[-1:])
        for rival in (name for name in RIVALS if name in set(part["method"])):
            label, headline = LOOKS[rival].label, rival in HEADLINE_RIVALS
            everywhere = _gap(part, "method", "panning", rival)
            name = f"Panning is above {label} on {task}, mean over sparsities"
            row = ("A: strong at every sparsity", name, everywhere, *of, headline)
            rows.append(_statement(*row))
            high_gap = _gap(part[part["sparsity"].isin(high)], "method", "panning", rival)
            low_gap = _gap(part[part["sparsity"].isin(low)], "method", "panning", rival)
            name = f"the gain on {label} is larger at the highest sparsities, {task}"
            gap = high_gap - low_gap
            row = ("A: most where the network underfits", name, gap, *of, headline)
            rows.append(_statement(*row))
        if "rlpanning" in set(part["method"]):
            gap = _gap(part, "method", "rlpanning", "panning")
            name = f"RLPanning is above Panning on {task}, mean over sparsities"
            rows.append(_statement("A: RLPanning", name, gap, *of, True))
    return rows


def learning(gaps: pd.DataFrame, confidence: float) -> list[Statement]:
    """Whether agents pass the best constant policy, for each way to train them.

    Args:
        gaps: `analysis.learning_gaps`.
        confidence: Level of the interval.
    """
    rows = []
    for name, part in gaps.groupby("settings", sort=False):
        agents = part.loc[part["policy"].str.startswith("agent"), "gap"]
        text = f"agents ({name}) earn more than the best constant p on unseen networks"
        row = ("B: the agent learns", text, agents, "reward", "agents", confidence)
        rows.append(_statement(*row, headline=len(agents) > 2))
    return rows


def reward(table: pd.DataFrame, steps: int, confidence: float) -> list[Statement]:
    """Whether the reward ranks networks as their accuracy does; bootstrap over policies.

    Args:
        table: Rows of `studies.judge` for many policies.
        steps: Of the trial training whose loss is the rival of the reward.
        confidence: Level of the interval.
    """
    wide = table.pivot(index="policy", columns=["sparsity", "seed"])

    def correlations(rows: np.ndarray, quantity: str, sign: int) -> float:
        columns = zip(
            wide[quantity].to_numpy()[rows].T, wide["accuracy"].to_numpy()[rows].T, strict=True
        )
        found = [stats.spearmanr(sign * x, y).statistic for x, y in columns]
        return float(np.mean(np.nan_to_num(found)))

    drawn = np.random.default_rng(0).integers(len(wide), size=(RESAMPLES // 4, len(wide)))
    everyone = np.arange(len(wide))
    pairs = {
        "policies with a higher return make networks that train better": ("return", 1),
        f"networks with a lower loss after {steps} steps of a trial train better": (
            f"loss_after_{steps}",
            -1,
        ),
    }
    rows, kept = [], {}
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    for text, (quantity, sign) in pairs.items():
        kept[quantity] = np.array([correlations(rows_, quantity, sign) for rows_ in drawn])
        found = correlations(everyone, quantity, sign)
        rows.append((text, found, kept[quantity]))
    (_, first, a), (_, second, b) = rows
    rows.append(("the trial ranks networks better than the return does", second - first, b - a))
    out = []
    for text, found, resampled in rows:
        low, high = np.quantile(resampled, ends)
        tail = min((resampled <= 0).mean(), (resampled >= 0).mean())
        out.append(
            {
                "claim": "B: the reward says what we want",
                "statement": text,
                "difference": found,
                "low": low,
                "high": high,
                "unit": "rank correlation",
                "n": len(wide),
                "of": "policies",
                "p": max(2 * tail, 1 / len(resampled)),
                "headline": True,
            }
        )
    return out


def claim_b(gaps: pd.DataFrame, axis_of: Mapping[str, str], confidence: float) -> list[Statement]:
    """Whether unchanged agents stay above their opponents, on each kind of change.

    Args:
        gaps: `analysis.transfer_gaps`.
        axis_of: {target: the kind of change}.
        confidence: Level of the interval.
    """
    gaps = gaps.assign(axis=gaps["target"].map(axis_of))
    rows = []
    for axis, words in AXES.items():
        here = gaps[gaps["axis"] == axis]
        for value, unit in (("return", "reward"), ("accuracy", "points")):
            for opponent in ("hand-made", "best constant", "SynFlow alone", "random"):
                part = here[(here["opponent"] == opponent) & (here["kind"] == "agent")]
                if part.empty:
                    continue
                verb = "earn more than" if value == "return" else "make better networks than"
                text = f"the unchanged agents {verb} {opponent} {words}"
                agents = part.groupby("agent")[value].mean()
                claim = "B: withstands changes"
                headline = (value, opponent) in HEADLINE_TRANSFERS
                rows.append(_statement(claim, text, agents, unit, "agents", confidence, headline))
    natives = gaps[(gaps["opponent"] == "native agent") & (gaps["kind"] == "agent")]
    for target, part in natives.groupby("target", sort=False):
        text = f"the unchanged agents make better networks than one trained there ({target})"
        agents = part.groupby("agent")["accuracy"].mean()
        row = ("B: withstands changes", text, agents, "points", "agents", confidence, True)
        rows.append(_statement(*row))
    # The same opponent under both kinds of agents: what is left is the kinds' difference.
    mean = gaps[gaps["opponent"] == "hand-made"].groupby(["kind", "agent"])["accuracy"].mean()
    if {"agent", "trainability"} <= set(mean.index.get_level_values(0)):
        pairs = zip(mean["trainability"], mean["agent"], strict=False)  # of equal seeds
        text = "agents rewarded for trainability make better networks than the paper's, all targets"
        gap = [b - a for b, a in pairs]
        row = ("B: a better reward", text, gap, "points", "agents", confidence, True)
        rows.append(_statement(*row))
    return rows


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
                gap = _gap(part, "method", "panning", other)
                rows.append(_statement(claim, text, gap, *of, True))
    choices = tables["choices"]
    for setting in ("T = 1", "linear", "masked"):
        if setting in set(choices["setting"]):
            text = f"Panning is above itself with {setting.replace('masked', 'masked gradients')}"
            gap = _gap(choices, "setting", "Panning", setting)
            rows.append(
                _statement("C: the gradual process helps", text, gap, *of, setting == "T = 1")
            )
    own = tables["checks"][tables["checks"]["method"] == "panning"]
    for check in ("reinitialised", "inverted", "pixels", "labels"):
        text = f"Panning is above itself when {check}"
        gap = _gap(own, "check", "unchanged", check)
        rows.append(_statement("C: what the choice rests on", text, gap, *of, True))
    return rows


def metrics(tables: Tables, confidence: float) -> list[Statement]:
    """Whether the fusion screens better than its parts, and a search better than a person."""
    rows = []
    choices, of = tables["choices"], ("points", "seeds", confidence)
    for setting in choices.loc[choices["study"].isin(["metrics", "fusion"]), "setting"].unique():
        name = "their product" if setting == "product" else f"{setting} alone"
        gap = _gap(choices, "setting", "Panning", setting)
        text = f"the hand-made fusion is above {name}"
        alone = setting in ("SynFlow", "SNIP", "GraSP")
        rows.append(_statement("Metrics: the fusion screens best", text, gap, *of, alone))
    found = tables["search"]
    for policy in found.loc[found["policy"].str.startswith("search"), "policy"].unique():
        text = f"the table of {policy} is above the hand-made one"
        gap = _gap(found, "policy", policy, "hand-made")
        rows.append(_statement("Metrics: a search finds a better table", text, gap, *of, True))
    return rows


NOTEBOOKS = {"A": "08_claim_a", "B": "09_claim_b", "C": "10_claim_c", "Metrics": "11_metric_choice"}


def assemble(statements: Iterable[Statement]) -> pd.DataFrame:
    """The table of claims: verdicts by rule, p-values corrected within each claim (Holm 1979).

    A statement *holds* where all of its interval is above 0, is *contradicted* where all is below,
    and is *open* otherwise. `corrected` says whether the verdict also stands after the correction.
    """
    table = pd.DataFrame(statements)
    letter = table["claim"].str.partition(":")[0]
    table["verdict"] = [verdict(*ends) for ends in zip(table["low"], table["high"], strict=True)]
    table["p_holm"] = table.groupby(letter)["p"].transform(lambda p: holm(p.to_numpy()))
    table["notebook"] = letter.map(NOTEBOOKS)
    learned = table["claim"].isin(["B: the agent learns", "B: the reward says what we want"])
    table.loc[learned, "notebook"] = "07_learning"
    return table
