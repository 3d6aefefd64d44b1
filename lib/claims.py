"""The paper's claims as statements that our tables can contradict, each with its verdict."""

from collections.abc import Mapping, Sequence

import pandas as pd

from . import config
from .files import whole
from .plotting import LOOKS, UNCHANGED, percent
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
    reference = [name for name in names if name in UNCHANGED]
    if not reference:  # the study of T has an order of its own
        names.sort(key=lambda name: int(name.rpartition(" ")[2]))
    return {name: name for name in [*reference, *(n for n in names if n not in reference)]}


def verdicts(
    comparison: pd.DataFrame,
    ablations: pd.DataFrame,
    robustness: pd.DataFrame,
    returns: pd.DataFrame,
    trained_at: Mapping[str, float],
    confidence: float,
) -> pd.DataFrame:
    """One row a statement: claim, statement, difference, low, high, unit, n, verdict.

    Differences of accuracy are in points, those of the return in units of reward, all paired by
    seed. The opponents are named beforehand: choosing the best one on the same data would favour
    it.

    Args:
        comparison: The tables `comparison` and `rlpanning`.
        ablations: The table `ablations`.
        robustness: The table `robustness`.
        returns: The table `rl_returns`.
        trained_at: The fraction of the images and the width at which the agent was trained, which
            say nothing of its robustness.
        confidence: Level of the intervals.
    """
    rows = []

    def add(claim: str, statement: str, differences: pd.Series, unit: str = "points") -> None:
        mean, low, high = interval(differences, confidence)
        numbers = {"difference": mean, "low": low, "high": high, "unit": unit}
        sample = {"n": len(differences), "verdict": verdict(low, high)}
        rows.append({"claim": claim, "statement": statement} | numbers | sample)

    sparse = comparison[comparison["method"] != "dense"]
    at = {rho: sparse[sparse["sparsity"] == rho] for rho in sorted(sparse["sparsity"].unique())}
    lowest, highest = min(at), max(at)

    def gain(rho: float, first: str, second: str) -> pd.Series:
        return 100 * _difference(at[rho], "method", first, second, "accuracy")

    for rival in ("synflow", "iterative_snip"):
        for rho in at:
            add(
                "A: strong at every sparsity",
                f"Panning is above {LOOKS[rival].label} at {percent(rho)}",
                gain(rho, "panning", rival),
            )
    add(
        "A: most where the network underfits",
        f"Panning's gain on SynFlow is larger at {percent(highest)} than at {percent(lowest)}",
        gain(highest, "panning", "synflow") - gain(lowest, "panning", "synflow"),
    )
    for agent in [name for name in sorted(returns["policy"].unique()) if "agent" in name]:
        for opponent in ("hand-made", "SynFlow alone"):
            add(
                "B: the agent learns",
                f"{agent} earns more than {opponent} on unseen networks",
                _difference(returns, "policy", agent, opponent, "return"),
                "reward",
            )
    for rho in at:
        add(
            "B: what it learned is worth something",
            f"RLPanning is above Panning at {percent(rho)}",
            gain(rho, "rlpanning", "panning"),
        )
    for axis, label in {"fraction": "data set sizes", "width": "widths"}.items():
        changed = robustness[
            (robustness["axis"] == axis) & (robustness["value"] != trained_at[axis])
        ]
        for rival in ("panning", "synflow"):
            add(
                f"B: withstands other {label}",
                f"the unchanged agent is above {LOOKS[rival].label}, mean over other {label}",
                100 * _difference(changed, "method", "rlpanning", rival, "accuracy"),
            )
    for rho in at:
        add(
            "C: the return of removed weights helps",
            f"Panning is above itself without return at {percent(rho)}",
            gain(rho, "panning", "iterative_fused"),
        )
    loop = ablations[ablations["study"] == "loop"]
    for rho, here in loop.groupby("sparsity"):
        add(
            "C: it is weights that are chosen, not only layer densities",
            f"Panning is above itself shuffled in layers at {percent(rho)}",
            100 * _difference(here, "setting", "Panning", "shuffled in layers", "accuracy"),
        )
    return pd.DataFrame(rows)


def _difference(table: pd.DataFrame, column: str, first: str, second: str, value: str) -> pd.Series:
    """The difference first - second of `value`, a number a seed; other axes are averaged over."""
    if missing := {first, second} - set(table[column]):
        raise ValueError(
            f"the table of claims needs {sorted(missing)[0]!r}: put it back among the methods of "
            "params.yaml"
        )
    wide = table[table[column].isin([first, second])].pivot_table(
        index="seed", columns=column, values=value
    )
    return (wide[first] - wide[second]).dropna()


def save(table: pd.DataFrame, name: str) -> None:
    """Write figures/NAME.csv, numbers to two digits, whole or not at all."""
    text = table.to_csv(index=False, float_format="%.2f", lineterminator="\n")
    with whole(config.root() / "figures" / f"{name}.csv") as file:
        file.write(text.encode())
