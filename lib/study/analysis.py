"""What the tables say: differences, correlations, and what they are made of."""

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations_with_replacement

import pandas as pd

from . import parameters
from .statistics import crossed, interval, paired, rank_correlation, spearman

P = ["p_synflow", "p_snip", "p_grasp"]
# The exponents of `panning_masked`, as the tables of the product's space call them.
THREE = "1 ½ 0"
# What an agent sees of its state, by column of the table of policies.
SEEN = ["target_sparsity", "effective_sparsity", "loss_sparse", "grad_norm_sq_sparse", "iteration"]


def learning_gaps(returns: pd.DataFrame, opponent: str = "best constant") -> pd.DataFrame:
    """One row per way to train, policy and network: its return minus the opponent's.

    Mean over the targets, which are the same for both.

    Args:
        returns: settings, policy, seed (of the network), sparsity, return.
        opponent: A policy of the table.
    """
    index = ["settings", "seed", "sparsity"]
    wide = returns.pivot(index=index, columns="policy", values="return")
    gaps = wide.sub(wide[opponent], axis=0).drop(columns=opponent)
    order = {name: i for i, name in enumerate(dict.fromkeys(returns["settings"]))}
    mean = gaps.groupby(["settings", "seed"]).mean().stack().dropna().rename("gap").reset_index()
    return mean.sort_values("settings", key=lambda s: s.map(order), kind="stable")


def _foretellers(table: pd.DataFrame, environment: parameters.Environment) -> dict[str, pd.Series]:
    """What may foretell the accuracy of `agents.judge`, signed so that more should be better."""
    gap = table["final_loss_sparse"] - table["final_loss"]
    flow = table["final_grad_norm_sq_sparse"] - table["final_grad_norm_sq"]
    what = {
        "return of the paper": table["return"],
        "term: loss": table["reward_loss"],
        "term: gradient norm": table["reward_grad_norm"],
        "term: sparsity": table["reward_sparsity"],
    }
    # Each term is linear in its weight, so another weight only rescales it.
    for symbol, weight, term, others in (
        ("w", environment.grad_weight, "reward_grad_norm", (0, 1)),
        ("α", environment.alpha, "reward_sparsity", (0, 1, 10, 1000)),
    ):
        for other in others if weight else ():
            what[f"return, {symbol} = {other}"] = (
                table["return"] + (other / weight - 1) * table[term]
            )
    what |= {
        "-|L - L_s|, temperature 1": -gap.abs(),
        "-|L - L_s|, temperature 200": -table["gap_loss_200"],
        "-|ΔL - ΔL_s|, temperature 1": -flow.abs(),
        "-|ΔL - ΔL_s|, temperature 200": -table["gap_flow_200"],
        "gradient norm of the sparse network": table["final_grad_norm_sq_sparse"],
        "effective weights": -table["effective_sparsity"],
        "mean singular value of the Jacobian": table["jacobian_mean"],
        "trace of the tangent kernel": table["ntk_trace"],
        "SynFlow's path norm": table["path_norm"],
    }
    for column in table.columns[table.columns.str.startswith("loss_after_")]:
        steps, *elsewhere = column.removeprefix("loss_after_").split("_")
        name = f"-loss after {steps} steps" + ", other images" * bool(elsewhere)
        what[name] = -table[column].fillna(math.inf)  # where it diverged
    return what


def reward_correlations(
    table: pd.DataFrame,
    environment: parameters.Environment,
    within: Sequence[str] = ("sparsity", "seed"),
) -> pd.DataFrame:
    """Spearman's ρ of trained accuracy with the return, its parts, and its rivals.

    Within each target and network. Each quantity is signed so that its correlation with the
    accuracy should be positive; a negative one speaks against it.

    Args:
        table: Rows of `agents.judge` for many policies.
        environment: Its α and w are those of the returns.
        within: The columns that say which rows have the same target and network.
    """
    rows = []
    for name, values in _foretellers(table, environment).items():
        mean, low, n = rank_correlation(table.assign(what=values), within, "what", "accuracy")
        rows.append({"what": name, "mean": mean, "smallest": low, "groups": n})
    return pd.DataFrame(rows)


def reward_pairs(
    table: pd.DataFrame, environment: parameters.Environment, within: Sequence[str]
) -> pd.DataFrame:
    """Notebook 07: the same for every two quantities together, the sum of their ranks, by place.

    A quantity with itself is that quantity alone. Weights of the terms of the return are left out.

    Args:
        table: As in `reward_correlations`, with a task.
        environment: Likewise.
        within: Likewise.

    Returns:
        One row per pair, the best first: `first`, `second`, `mean` over places, the `smallest` and
        a column per place, "task, sparsity", the mean over its networks.
    """
    what = {
        name: values.groupby([table[column] for column in within]).rank()
        for name, values in _foretellers(table, environment).items()
        if not name.startswith("return,")
    }
    places = table["task"] + ", " + (100 * table["sparsity"]).map("{:g} %".format)
    rows = []
    for first, second in combinations_with_replacement(what, 2):
        both = table.assign(what=what[first] + what[second], place=places)
        found = {
            place: rank_correlation(part, within, "what", "accuracy")[0]
            for place, part in both.groupby("place", sort=False)
        }
        row = {"first": first, "second": second, "mean": sum(found.values()) / len(found)}
        rows.append(row | {"smallest": min(found.values())} | found)
    order = ["mean", "first", "second"]
    return pd.DataFrame(rows).sort_values(order, ascending=[False, True, True], ignore_index=True)


def transfer_gaps(table: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """Claim B: each agent minus each opponent, target by target, in return and in accuracy.

    Mean over sparsities, paired. An agent that learned from another reward is nobody's opponent;
    its accuracy is compared with the opponents of the other agents.

    Args:
        table: target, policy, sparsity, seed, return, accuracy.
        targets: Their names, in order.

    Returns:
        target, kind ("agent" or "trainability"), agent, opponent, seed (of the network), return
        (units of reward), accuracy (points).
    """
    rows = []
    for target in targets:
        here = table[table["target"] == target]
        wide = here.pivot(index=["sparsity", "seed"], columns="policy")[["return", "accuracy"]]
        names = here["policy"].unique()
        learned = [n for n in names if n.startswith(("agent ", "trainability "))]
        for agent in learned:
            for opponent in (name for name in names if name not in learned):
                gap = pd.DataFrame(
                    {v: wide[v][agent] - wide[v][opponent] for v in ("return", "accuracy")}
                )
                gap["accuracy"] *= 100
                row = {"target": target, "kind": agent.partition(" ")[0], "agent": agent}
                row["opponent"] = opponent
                mean = gap.groupby("seed").mean().reset_index()
                rows += [row | one for one in mean.to_dict("records")]
    return pd.DataFrame(rows)


def proportions(actions: pd.DataFrame) -> pd.DataFrame:
    """P scaled to a sum of 1: only the proportions count, since S is ranked."""
    total = actions[P].sum(axis=1)
    return actions.assign(**{name: actions[name] / total.where(total > 0, 1) for name in P})


def dependence(actions: pd.DataFrame) -> pd.DataFrame:
    """Spearman's ρ of each scaled weight with each part of the state, over all agents' steps.

    A row of a roll-out holds the state after its action. What the agent saw is in the row before,
    so first iterations are left out.
    """
    learned = proportions(actions[actions["policy"].str.startswith("agent")])
    learned = learned.sort_values(["policy", "sparsity", "iteration"])
    episodes = learned.groupby(["policy", "sparsity"])
    seen = learned[["target_sparsity", "iteration"]].join(
        episodes[["effective_sparsity", "loss_sparse", "grad_norm_sq_sparse"]].shift()
    )
    seen, learned = seen[seen.notna().all(axis=1)], learned[seen.notna().all(axis=1)]
    return pd.DataFrame(
        {name: {what: spearman(seen[what], learned[name]) for what in SEEN} for name in P}
    )


def choice_gaps(table: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Notebook 04: each setting minus the reference, in points, paired by seed."""
    points = table.assign(accuracy=100 * table["accuracy"])
    reference = points[points["study"] == "reference"]
    gaps = []
    for (study, setting), part in points.groupby(["study", "setting"], sort=False):
        if study == "reference":
            continue
        both = pd.concat([reference, part])
        by = (["sparsity"], "accuracy", confidence)
        gap = paired(both, "setting", setting, "Panning", *by)
        gaps.append(gap.assign(study=study, setting=setting))
    return pd.concat(gaps, ignore_index=True)


def standing(table: pd.DataFrame, rivals: Collection[str]) -> pd.DataFrame:
    """Notebook 07: each candidate minus the best rival, in points, the best candidate first.

    The best rival is that of the highest mean over seeds at a sparsity of a task, so another one at
    another place: no single rival is asked to do as well.

    Args:
        table: The development table: task, method, sparsity, seed, accuracy.
        rivals: The methods that are not candidates.

    Returns:
        One row per method that stands in every task: `mean`, over tasks of the mean over
        sparsities, in which each task counts alike; `worst`, the lowest over tasks and sparsities,
        and `where` that is; and a column per task. A rival's row compares it with the others.
    """
    places = ["task", "sparsity"]
    accuracy = 100 * table.pivot_table(index=places, columns="method", values="accuracy")
    gaps = {
        name: accuracy[name] - accuracy[others].max(axis=1)
        for name in accuracy.columns[accuracy.notna().all()]
        if (others := [rival for rival in rivals if rival != name])
    }
    rows = []
    for name, gap in gaps.items():
        tasks = gap.groupby("task", sort=False).mean()
        where = "{}, {:g}".format(*gap.idxmin())
        row = {"method": name, "mean": tasks.mean(), "worst": gap.min(), "where": where}
        rows.append(row | tasks.to_dict())
    order = ["mean", "method"]
    return pd.DataFrame(rows).sort_values(order, ascending=[False, True], ignore_index=True)


def fewer_iterations(
    table: pd.DataFrame, candidates: Sequence[parameters.Candidate], whole: int, confidence: float
) -> pd.DataFrame:
    """Notebook 07: candidates of fewer iterations minus those that differ from them in T alone.

    Args:
        table: The development table: task, method, sparsity, seed, accuracy.
        candidates: Those of the profile.
        whole: T of those that they are compared with.
        confidence: Of the interval, over tasks and seeds.

    Returns:
        One row per candidate: `method`, `steps`, `difference` in points, mean over the networks,
        `low`, `high`; `networks`, how many; and a column per task.
    """
    accuracy = 100 * table.pivot_table(index=["task", "seed"], columns="method", values="accuracy")
    rows = []
    for few in candidates:
        same = (c for c in candidates if c == few.changed(name=c.name, steps=whole) and c != few)
        for many in same:
            gaps = (accuracy[few.name] - accuracy[many.name]).dropna()
            middle, low, high = interval(gaps, confidence)
            row = {"method": few.name, "steps": few.steps, "difference": middle}
            row |= {"low": low, "high": high, "networks": len(gaps)}
            rows.append(row | gaps.groupby("task", sort=False).mean().to_dict())
    return pd.DataFrame(rows)


def selections(table: pd.DataFrame, candidates: Sequence[str]) -> pd.DataFrame:
    """Notebook 02: at each sparsity of each task, how good the choices of a trial are.

    Args:
        table: The comparison.
        candidates: The methods among which "panning_select" chooses.

    Returns:
        Per task and sparsity: `best`, the share of the seeds on which it took the candidate with
        the highest accuracy, or one as high; `lost`, the points by which it stays below that one;
        `gained`, those by which it is above the mean candidate; and how often each was taken.
    """
    key = ["task", "sparsity", "seed"]
    wide = 100 * table.pivot_table(index=key, columns="method", values="accuracy")
    chosen = table[table["method"] == "panning_select"].set_index(key)["selected"]
    own = wide.loc[chosen.index, "panning_select"]
    others = wide.loc[chosen.index, list(candidates)]
    found = pd.DataFrame({"lost": others.max(axis=1) - own, "gained": own - others.mean(axis=1)})
    found.insert(0, "best", (found["lost"] <= 0).astype(float))
    taken = pd.get_dummies(chosen).reindex(columns=list(candidates), fill_value=False)
    parts = found.join(taken.astype(int)).groupby(["task", "sparsity"])
    means = parts[["best", "lost", "gained"]].mean()
    return means.join(parts[list(candidates)].sum()).reset_index()


def exponent_groups(study: parameters.Exponents) -> dict[str, list[str]]:
    """{way to train: the names of its agents}, and the random policies, as the tables have them."""
    groups = {each.name: [f"{each.name}, {seed}" for seed in each.seeds] for each in study.learners}
    return groups | {"random exponents": [f"random {seed}" for seed in range(3)]}


def choosers(
    table: pd.DataFrame,
    groups: Mapping[str, Sequence[str]],
    reference: str,
    confidence: float,
) -> pd.DataFrame:
    """Notebook 07: policies minus the reference, in points of accuracy, mean over sparsities.

    Args:
        table: task, policy, sparsity, seed (of the network), accuracy.
        groups: {name: policies that are one kind, such as agents that differ in their seed}.
        reference: A policy.
        confidence: Level of the intervals: over policies and networks at once where a group has
            several (`statistics.crossed`), otherwise over networks.

    Returns:
        One row per task and group, and per policy in none: difference, low, high, policies.
    """
    grouped = {policy for some in groups.values() for policy in some}
    single = [p for p in table["policy"].unique() if p not in grouped and p != reference]
    rows = []
    for task, part in table.groupby("task", sort=False):
        wide = 100 * part.pivot(index=["seed", "sparsity"], columns="policy", values="accuracy")
        gaps = wide.sub(wide[reference], axis=0).groupby("seed").mean()
        for name, policies in {**groups, **{each: [each] for each in single}}.items():
            own = gaps[[policy for policy in policies if policy in gaps.columns]]
            if len(own.columns) > 1:
                cells = own.stack().rename("gap").rename_axis(["network", "agent"]).reset_index()
                found = crossed(cells, "gap", confidence)[:3]
            elif len(own.columns):
                found = interval(own.iloc[:, 0], confidence)
            else:
                continue
            row = {"task": task, "policy": name, "policies": len(own.columns)}
            rows.append(row | dict(zip(("difference", "low", "high"), found, strict=True)))
    return pd.DataFrame(rows)
