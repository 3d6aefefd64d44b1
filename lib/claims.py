"""The paper's claims as statements that our tables can contradict, each with its verdict."""

from collections.abc import Sequence

import pandas as pd

from . import config
from .files import whole
from .plotting import LOOKS, percent
from .results import interval


def verdict(low: float, high: float) -> str:
    """What an interval says of "the difference is positive"."""
    if low > 0:
        return "holds"
    if high < 0:
        return "contradicted"
    return "open"


def accuracy_table(table: pd.DataFrame, methods: Sequence[str], confidence: float) -> pd.DataFrame:
    """Mean accuracy (%) of the last epoch and half the interval, a row a method.

    Raises:
        ValueError: A method has no row.
    """
    if missing := set(methods) - set(table["method"]):
        raise ValueError(f"table lacks the method {sorted(missing)[0]!r}")
    rows = []
    for method in methods:
        row = {"method": LOOKS[method].label}
        for rho, part in table[table["method"] == method].groupby("sparsity"):
            mean, low, _ = interval(100 * part["accuracy"], confidence)
            column = "dense" if method == "dense" else percent(rho)
            row[column] = f"{mean:.1f} ± {mean - low:.1f}"
        rows.append(row)
    out = pd.DataFrame(rows)
    if "dense" in out:  # a network that is not pruned is the same one at every sparsity
        sparse = [column for column in out.columns if column not in ("method", "dense")]
        out.loc[out["dense"].notna(), sparse] = out["dense"].dropna().iloc[0]
        out = out.drop(columns="dense")
    return out


def settings_in_order(study: pd.DataFrame) -> dict[str, str]:
    """The settings of a study, the unchanged Panning first, then by accuracy."""
    mean = study.groupby("setting")["accuracy"].mean().sort_values(ascending=False)
    names = list(mean.index)
    reference = [name for name in names if name in ("hand-made", "Panning")]
    if not reference:  # the study of T has an order of its own
        names.sort(key=lambda name: int(name.rpartition(" ")[2]))
    return {name: name for name in [*reference, *(n for n in names if n not in reference)]}


def verdicts(
    comparison: pd.DataFrame,
    ablations: pd.DataFrame,
    robustness: pd.DataFrame,
    returns: pd.DataFrame,
    confidence: float,
) -> pd.DataFrame:
    """One row a statement: claim, statement, difference, low, high, n, verdict.

    Differences of accuracy are in points, those of the return in units of reward, all paired by
    seed.
    """
    rows = []

    def add(claim: str, statement: str, unit: str, differences: pd.Series) -> None:
        mean, low, high = interval(differences, confidence)
        numbers = {"difference": mean, "low": low, "high": high, "unit": unit}
        sample = {"n": len(differences), "verdict": verdict(low, high)}
        rows.append({"claim": claim, "statement": statement} | numbers | sample)

    def by_seed(table: pd.DataFrame, column: str, first: str, second: str, value: str) -> pd.Series:
        wide = table[table[column].isin([first, second])].pivot_table(
            index="seed", columns=column, values=value
        )
        return (wide[first] - wide[second]).dropna()

    points = comparison.assign(accuracy=100 * comparison["accuracy"])
    sparse = points[points["method"] != "dense"]
    rivals = [m for m in LOOKS if m in set(sparse["method"]) - {"panning", "rlpanning"}]
    lowest, highest = sparse["sparsity"].min(), sparse["sparsity"].max()
    for rho in sorted(sparse["sparsity"].unique()):
        here = sparse[sparse["sparsity"] == rho]
        means = here[here["method"].isin(rivals)].groupby("method")["accuracy"].mean()
        best = means.idxmax()
        add(
            "A: strong at every sparsity",
            f"Panning is above the best other method, {LOOKS[best].label}, at {percent(rho)}",
            "points",
            by_seed(here, "method", "panning", best, "accuracy"),
        )
    for rival in ("snip", "synflow"):
        if rival in rivals:
            gains = [
                by_seed(sparse[sparse["sparsity"] == rho], "method", "panning", rival, "accuracy")
                for rho in (highest, lowest)
            ]
            add(
                "A: most where the network underfits",
                f"Panning's gain on {LOOKS[rival].label} is larger at {percent(highest)} than at "
                f"{percent(lowest)}",
                "points",
                gains[0] - gains[1],
            )
    for opponent in ("hand-made", "SynFlow alone", "random"):
        add(
            "B: the agent learns",
            f"agent 0 earns more than {opponent} on unseen networks and targets",
            "reward",
            by_seed(returns, "policy", "agent 0", opponent, "return"),
        )
    add(
        "B: the agent's masks train better",
        "RLPanning is above Panning in the comparison, over all sparsities",
        "points",
        by_seed(sparse, "method", "rlpanning", "panning", "accuracy"),
    )
    bearing = robustness.assign(accuracy=100 * robustness["accuracy"])
    labels = {"fraction": "data set sizes", "width": "widths"}
    for axis, label in labels.items():
        changed = bearing[(bearing["axis"] == axis) & (bearing["value"] != 1)]
        for rival in ("panning", "synflow"):
            add(
                f"B: withstands other {label}",
                f"the unchanged agent is above {LOOKS[rival].label} at other {label}",
                "points",
                by_seed(changed, "method", "rlpanning", rival, "accuracy"),
            )
    loop = ablations[ablations["study"] == "loop"].assign(accuracy=lambda t: 100 * t["accuracy"])
    for setting, statement in (
        ("without return", "the return of removed weights helps"),
        ("shuffled in layers", "the choice of weights helps, beyond the layer densities"),
    ):
        add(
            "C: transfer of force",
            f"{statement} (Panning against it {setting})",
            "points",
            by_seed(loop, "setting", "Panning", setting, "accuracy"),
        )
    return pd.DataFrame(rows)


def save(table: pd.DataFrame, name: str) -> None:
    """Write figures/NAME.csv, numbers to two digits, whole or not at all."""
    text = table.to_csv(index=False, float_format="%.2f", lineterminator="\n")
    with whole(config.root() / "figures" / f"{name}.csv") as file:
        file.write(text.encode())
