"""The paper's claims as statements that our tables can contradict, each with its verdict.

A statement is a difference that the claim says is positive, one value for each unit of
replication: a seed of the network where methods are compared, agents and networks where agents are,
policies where rewards are. Opponents are named here, beforehand: choosing the best one on the same
data would favour it.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
from scipy import stats

from ..figures.style import LOOKS, percent
from .checks import CHECKS
from .parameters import Parameters
from .statistics import bootstrap_p, crossed, holm, interval, p_value, spearman

Tables = Mapping[str, pd.DataFrame]
Statement = dict[str, object]

RIVALS = ("magnitude", "snip", "grasp", "synflow", "iterative_snip", "force")
HEADLINE_RIVALS = ("synflow", "iterative_snip", "snip", "force")
RESAMPLES = 2000


def verdict(low: float, high: float) -> str:
    """What an interval says about "the difference is positive"."""
    if low > 0:
        return "holds"
    if high < 0:
        return "contradicted"
    return "open"


def assemble(tables: Tables, params: Parameters) -> pd.DataFrame:
    """All statements, one per row.

    Args:
        tables: comparison (with RLPanning), learning_gaps, reward, transfer_gaps, ablations, checks
            and search.
        params: Their profile.

    Returns:
        claim, statement, difference, low, high, unit, n, of (what n counts), p, p_holm (corrected
        for the number of statements of the same claim), headline, verdict and notebook.
    """
    confidence = params.statistics.confidence
    axis_of = {target.name: target.axis for target in params.transfer.targets}
    rows = pd.DataFrame(
        [
            *strong(tables["comparison"], confidence),
            *learns(tables["learning_gaps"], confidence),
            *rewards(tables["reward"], params.reward.trials[-1], confidence),
            *transfers(tables["transfer_gaps"], axis_of, confidence),
            *helps(tables, confidence),
            *screens(tables, confidence),
            *beyond(tables["comparison"], confidence),
        ]
    )
    letter = rows["claim"].str.partition(":")[0]
    rows["p_holm"] = rows.groupby(letter)["p"].transform(lambda p: holm(p))
    rows["verdict"] = [verdict(*ends) for ends in zip(rows["low"], rows["high"], strict=True)]
    return rows


# --- a statement -------------------------------------------------------------------------------


def gap(table: pd.DataFrame, column: str, first: str, second: str) -> pd.Series:
    """First minus second in points of accuracy, one value per seed: the mean over sparsities.

    Only sparsities at which the seed has both count, so that like is compared with like.
    """
    wide = table[table[column].isin([first, second])].pivot_table(
        index=["sparsity", "seed"], columns=column, values="accuracy"
    )
    return 100 * (wide[first] - wide[second]).dropna().groupby("seed").mean()


def _row(
    claim: str,
    statement: str,
    numbers: tuple[float, float, float, float],
    unit: str,
    n: int,
    of: str,
    headline: bool,
    notebook: str,
) -> Statement:
    row: Statement = {"claim": claim, "statement": statement}
    row |= dict(zip(("difference", "low", "high", "p"), numbers, strict=True))
    return row | {"unit": unit, "n": n, "of": of, "headline": headline, "notebook": notebook}


def over_seeds(
    claim: str,
    statement: str,
    differences: Iterable[float],
    confidence: float,
    headline: bool,
    notebook: str,
) -> Statement:
    """The mean of differences in points, one value per seed, by Student's t."""
    values = np.asarray(list(differences), dtype=float)
    numbers = (*interval(values, confidence), p_value(values))
    return _row(claim, statement, numbers, "points", len(values), "seeds", headline, notebook)


def over_agents(
    claim: str,
    statement: str,
    table: pd.DataFrame,
    value: str,
    unit: str,
    confidence: float,
    headline: bool,
) -> Statement:
    """A mean over agents and networks, both drawn at random; see `statistics.crossed`."""
    agents, networks = table["agent"].nunique(), table["network"].nunique()
    of = f"agents, {networks} network" + "s" * (networks > 1)
    numbers = crossed(table, value, confidence)
    return _row(claim, statement, numbers, unit, agents, of, headline, "03_rl_training")


# --- A -----------------------------------------------------------------------------------------


def strong(table: pd.DataFrame, confidence: float) -> Iterator[Statement]:
    """Strong at every sparsity; most where the network underfits."""
    place = "02_artificial_panning"
    for task, part in table[table["method"] != "dense"].groupby("task", sort=False):
        targets = sorted(part["sparsity"].unique())
        wide = len(targets) > 4
        low, high = (targets[:2], targets[-2:]) if wide else (targets[:1], targets[-1:])
        methods = set(part["method"])
        for rival in (name for name in RIVALS if {name, "panning"} <= methods):
            label, headline = LOOKS[rival].label, rival in HEADLINE_RIVALS
            name = f"Panning is above {label} on {task}, mean over sparsities"
            everywhere = gap(part, "method", "panning", rival)
            yield over_seeds("A: strong on average", name, everywhere, confidence, headline, place)
            rho, gains, level = _worst(part, rival, confidence)
            name = f"Panning is above {label} on {task} at its worst sparsity, {percent(rho)}"
            row = over_seeds("A: strong at every sparsity", name, gains, level, headline, place)
            yield row | {"p": min(1.0, row["p"] * len(targets))}
            if len(targets) > 1:
                ends = (part[part["sparsity"].isin(which)] for which in (high, low))
                above, below = (gap(end, "method", "panning", rival) for end in ends)
                name = f"the gain on {label} is larger at the highest sparsities, {task}"
                claim = "A: most where the network underfits"
                yield over_seeds(claim, name, above - below, confidence, headline, place)
        if {"rlpanning", "panning"} <= methods:
            gains = gap(part, "method", "rlpanning", "panning")
            name = f"RLPanning is above Panning on {task}, mean over sparsities"
            yield over_seeds("A: RLPanning", name, gains, confidence, True, "03_rl_training")


def _worst(part: pd.DataFrame, rival: str, confidence: float) -> tuple[float, pd.Series, float]:
    """The sparsity that decides "above at every sparsity", the gains, and the level to test at.

    Bonferroni corrects for the choice: with k sparsities, each interval has level
    1 - (1 - confidence) / k. One wholly below 0 contradicts the statement, however wide the others;
    otherwise one that contains 0 leaves it open. Of those that decide, the smallest gain is taken.
    """
    gains = {rho: gap(at, "method", "panning", rival) for rho, at in part.groupby("sparsity")}
    level = 1 - (1 - confidence) / len(gains)
    ends = {rho: interval(gain, level)[1:] for rho, gain in gains.items()}
    below = [rho for rho, (_, high) in ends.items() if high < 0]
    undecided = [rho for rho, (low, _) in ends.items() if not low > 0]
    worst = min(below or undecided or gains, key=lambda rho: gains[rho].mean())
    return worst, gains[worst], level


# --- B -----------------------------------------------------------------------------------------

AXES = {
    "none": "with nothing changed",
    "images": "with fewer images",
    "scale": "on other widths",
    "network": "on {}",  # each network is its own kind of change: a mean over two says little
    "data": "on another data set",
}
OPPONENTS = ("hand-made", "best constant", "SynFlow alone", "random")
HEADLINE_TRANSFERS = {("return", "best constant"), ("accuracy", "hand-made")}


def learns(gaps: pd.DataFrame, confidence: float) -> Iterator[Statement]:
    """Whether agents pass the best constant policy, for each way to train them.

    Args:
        gaps: `analysis.learning_gaps`.
        confidence: Level of the interval.
    """
    for name, part in gaps.groupby("settings", sort=False):
        agents = part[part["policy"].str.startswith("agent")]
        agents = agents.rename(columns={"policy": "agent", "seed": "network"})
        text = f"agents ({name}) earn more than the best constant p on unseen networks"
        headline = agents["agent"].nunique() > 2
        row = ("B: the agent learns", text, agents, "gap", "reward", confidence, headline)
        yield over_agents(*row)


def rewards(table: pd.DataFrame, steps: int, confidence: float) -> Iterator[Statement]:
    """Whether the reward ranks networks as their accuracy does; bootstrap over policies.

    Each sparsity has its own statements, since two strong correlations of opposite sign would
    average to none. Each is a mean over networks.

    Args:
        table: Rows of `agents.judge` for many policies.
        steps: Of the trial training whose loss is the rival of the reward.
        confidence: Level of the interval.
    """
    trial = f"loss_after_{steps}"
    texts = {
        "policies with a higher return make networks that train better": (1, 0),
        f"networks with a lower loss after {steps} steps of a trial train better": (0, 1),
        "the trial ranks networks better than the return does": (-1, 1),
    }
    for rho, part in table.groupby("sparsity"):
        wide = part.pivot(index="policy", columns="seed")
        accuracy = wide["accuracy"].to_numpy()
        rivals = wide["return"].to_numpy(), -wide[trial].to_numpy()
        everyone = np.arange(len(wide))
        found = _correlations(rivals, accuracy, everyone)
        sample = stats.bootstrap(
            (everyone,),
            partial(_correlations, rivals, accuracy),
            n_resamples=RESAMPLES,
            vectorized=False,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
        networks = part["seed"].nunique()
        of = f"policies, {networks} network" + "s" * (networks > 1)
        for text, weights in texts.items():
            resampled = np.dot(weights, sample)
            low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
            numbers = (float(np.dot(weights, found)), low, high, bootstrap_p(resampled))
            row = ("B: the reward says what we want", f"{text} at {percent(rho)}", numbers)
            yield _row(*row, "rank correlation", len(wide), of, True, "03_rl_training")


def _correlations(
    rivals: tuple[np.ndarray, ...], accuracy: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Each rival's rank correlation with the accuracy over some policies, mean over networks."""
    return np.array(
        [
            np.mean([spearman(x, y) for x, y in zip(q[rows].T, accuracy[rows].T, strict=True)])
            for q in rivals
        ]
    )


def transfers(
    gaps: pd.DataFrame, axis_of: Mapping[str, str], confidence: float
) -> Iterator[Statement]:
    """Whether unchanged agents stay above their opponents, on each kind of change.

    Args:
        gaps: `analysis.transfer_gaps`.
        axis_of: {target: the kind of change}.
        confidence: Level of the interval.
    """
    # A seed is the same initialisation on all targets of an axis, so they share its luck. The unit
    # is therefore the seed, over whose targets the gaps are averaged.
    where_of = {target: AXES[axis].format(target) for target, axis in axis_of.items()}
    gaps = gaps.assign(where=gaps["target"].map(where_of), network=gaps["seed"])
    own = gaps[gaps["kind"] == "agent"]
    measured = {"return": ("earn more", "reward"), "accuracy": ("make better networks", "points")}
    for where in dict.fromkeys(where_of.values()):
        for value, (verb, unit) in measured.items():
            for opponent in OPPONENTS:
                part = own[(own["where"] == where) & (own["opponent"] == opponent)]
                if not part.empty:
                    text = f"the unchanged agents {verb} than {opponent} {where}"
                    headline = (value, opponent) in HEADLINE_TRANSFERS
                    row = ("B: withstands changes", text, part, value, unit, confidence, headline)
                    yield over_agents(*row)
    natives = own[own["opponent"] == "native agent"]
    for target, part in natives.groupby("target", sort=False):
        for value, (verb, unit) in measured.items():
            text = f"the unchanged agents {verb} than one trained there ({target})"
            row = ("B: withstands changes", text, part, value, unit, confidence, True)
            yield over_agents(*row)
    # Both kinds of agents face the same opponent, which cancels. What is left is their difference
    # on these networks, which both pruned.
    mean = gaps[gaps["opponent"] == "hand-made"].groupby(["kind", "agent"])["accuracy"].mean()
    several = mean.groupby("kind").size() > 1  # one agent has no spread to test by
    if {"agent", "trainability"} <= set(several[several].index):
        test = stats.ttest_ind(mean["trainability"], mean["agent"], equal_var=False)
        value = mean["trainability"].mean() - mean["agent"].mean()
        numbers = (value, *test.confidence_interval(confidence), float(test.pvalue))
        text = "agents rewarded for trainability make better networks than the paper's, all targets"
        counts = len(mean["trainability"]), len(mean["agent"])
        row = ("B: a better reward", text, numbers, "points", counts[0])
        yield _row(*row, f"agents against {counts[1]}", True, "03_rl_training")


# --- C -----------------------------------------------------------------------------------------

# How a statement names the change to Panning.
WITHOUT = {
    "reinitialised": "with its weights drawn anew",
    "inverted": "keeping the worst weights",
    "pixels": "scored on shuffled pixels",
    "labels": "scored on shuffled classes",
    "shuffled": "shuffled within layers",
    "T = 1": "in a single step",
    "T = 3": "in three steps",
    "linear": "on a linear schedule",
    "masked": "with the gradients of the masked network",
}
RETURN = "C: the return of removed weights helps"
CHOSEN = "C: it is weights that are chosen, not only layer densities"


def helps(tables: Tables, confidence: float) -> Iterator[Statement]:
    """What helps: the return of weights, the schedule, the densities, or the choice of weights."""
    place = "02_artificial_panning"
    for task, part in tables["comparison"].groupby("task", sort=False):
        methods = set(part["method"])
        for claim, first, second in (
            (RETURN, "panning", "iterative_fused"),
            (CHOSEN, "panning", "panning+shuffled"),
            (RETURN, "force", "iterative_snip"),  # which differ only in the return
        ):
            if {first, second} <= methods:
                labels = LOOKS[first].label, LOOKS[second].label
                text = "{} is above {} on {}, mean over sparsities".format(*labels, task)
                gains = gap(part, "method", first, second)
                yield over_seeds(claim, text, gains, confidence, True, place)
    ablations, place = tables["ablations"], "04_ablations"
    for setting in ("T = 1", "T = 3", "linear"):
        # One by one: in a mean over sparsities, a network killed by a single step would decide.
        tried = ablations.loc[ablations["setting"] == setting, "sparsity"]
        for rho, part in ablations[ablations["sparsity"].isin(tried)].groupby("sparsity"):
            gains = gap(part, "setting", "Panning", setting)
            text = f"Panning is above itself {WITHOUT[setting]} at {percent(rho)}"
            row = ("C: the gradual process helps", text, gains, confidence, setting != "linear")
            yield over_seeds(*row, place)
    if "masked" in set(ablations["setting"]):
        gains = gap(ablations, "setting", "Panning", "masked")
        text = f"Panning is above itself {WITHOUT['masked']}"
        claim = "C: the dense network's gradients help"
        yield over_seeds(claim, text, gains, confidence, True, place)
    own = tables["checks"][tables["checks"]["method"] == "panning"]
    for check in CHECKS if len(own) else ():
        gains = gap(own, "check", "unchanged", check)
        text = f"Panning is above itself {WITHOUT[check]}"
        yield over_seeds("C: what the choice rests on", text, gains, confidence, True, place)


# --- the metrics -------------------------------------------------------------------------------


def screens(tables: Tables, confidence: float) -> Iterator[Statement]:
    """Whether the fusion screens better than its parts, and a search better than a person."""
    ablations, place = tables["ablations"], "04_ablations"
    ours = ablations["study"].isin(["metrics", "fusion"])
    for setting in ablations.loc[ours, "setting"].unique():
        single = setting in ("SynFlow", "SNIP", "GraSP")
        name = "the product" if setting == "product" else f"{setting} alone" if single else setting
        text = f"the hand-made fusion is above {name}"
        gains = gap(ablations, "setting", "Panning", setting)
        headline = single or setting == "product"
        claim = "Metrics: the fusion screens best"
        yield over_seeds(claim, text, gains, confidence, headline, place)
    found = tables["search"]
    for policy in found.loc[found["policy"].str.startswith("search"), "policy"].unique():
        text = f"the table of {policy} is above the hand-made one"
        gains = gap(found, "policy", policy, "hand-made")
        claim = "Metrics: a search finds a better table"
        yield over_seeds(claim, text, gains, confidence, True, place)


# --- in short ----------------------------------------------------------------------------------


# --- beyond the paper --------------------------------------------------------------------------


def beyond(table: pd.DataFrame, confidence: float) -> Iterator[Statement]:
    """Whether our own methods lose to none of their rivals."""
    place = "02_artificial_panning"
    for task, part in table.groupby("task", sort=False):
        methods = set(part["method"])
        for own in ("panning_masked", "panning_select"):
            rivals = (*RIVALS[1:], "panning") if own == "panning_masked" else ("panning_masked",)
            for rival in (name for name in rivals if {name, own} <= methods):
                gains = gap(part, "method", own, rival)
                first, second = LOOKS[own].label, LOOKS[rival].label
                name = f"{first} is above {second} on {task}, mean over sparsities"
                claim = f"Beyond: {first.removesuffix(' (ours)')}"
                yield over_seeds(claim, name, gains, confidence, True, place)


def headline(table: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, float]:
    """A handful of numbers that `dvc metrics diff` shows: accuracies (%) and counts of verdicts.

    Args:
        table: The comparison. The accuracies are those of its first task at the highest sparsity.
        verdicts: `assemble`.
    """
    first = table[table["task"] == table["task"].iloc[0]]
    first = first[first["sparsity"] == first["sparsity"].max()]
    means = 100 * first.groupby("method")["accuracy"].mean()
    wanted = [
        name
        for name in ("panning", "rlpanning", "panning_masked", "synflow", "force")
        if name in means
    ]
    counts = verdicts["verdict"].value_counts()
    kinds = ("holds", "open", "contradicted")
    return {name: means[name] for name in wanted} | {k: int(counts.get(k, 0)) for k in kinds}
