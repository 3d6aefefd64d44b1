"""Writes the results part of README.md from the committed tables, so that no number is typed.

``python tools/readme.py`` after a rebuild; a test holds the two together.
"""

import csv
import math
import textwrap
from pathlib import Path

import pandas as pd
import yaml

from lib.inference import spearman
from lib.statements import paired_gap, paired_statement

ROOT = Path(__file__).resolve().parents[1]
NETWORKS = {"lenet5": "LeNet-5", "resnet32": "ResNet-32", "vgg16": "VGG-16"}
START, END = "<!-- results: written by tools/readme.py -->", "<!-- end of results -->"


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of figures/NAME.csv."""
    with (ROOT / "figures" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def markdown(table: list[dict[str, str]]) -> str:
    """Return a table as Markdown, its first column as text and the others as numbers."""
    head = list(table[0])
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *(list(row.values()) for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


UNITS = {"points": "points", "reward": "reward", "rank correlation": "rank corr."}


def claim(row: dict[str, str]) -> dict[str, str]:
    """Return a row of the full study's table of claims as README shows it."""
    digits = 2 if row["unit"] == "rank correlation" else 1
    value, low, high = (f"{float(row[k]):+.{digits}f}" for k in ("difference", "low", "high"))
    lost = row["verdict"] != "open" and float(row["p_holm"]) > 0.05
    note = ", not after correction" if lost else ""
    if row["of"].startswith("policies") and row["verdict"] != "open":
        note = ", uncorrected"
    return {
        "claim": row["claim"],
        "statement": row["statement"],
        "measured": f"{value} {UNITS[row['unit']]} ({low} to {high}), {row['n']} {row['of']}",
        "verdict": f"**{row['verdict']}**{note}",
        "shown in": f"[{row['notebook'][:2]}](notebooks/{row['notebook']}.ipynb)",
    }


def speed(row: dict[str, str]) -> dict[str, str]:
    """Return a row of the table of speed as README shows it."""
    return {
        "network": NETWORKS[row["network"]],
        "sparsity": f"{float(row['sparsity']):g} %",
        "times faster": f"{float(row['speedup']):.1f}",
        "pruning, in epochs": f"{float(row['pruning']):.1f}",
        "won back after": "never" if row["epochs"] == "inf" else f"{float(row['epochs']):.1f}",
    }


def said(statement: str, verdict: str) -> str:
    """Return what the full study measured of a statement, for prose that presumes its verdict.

    A dagger marks what survives the correction. A ValueError says where a rebuild has overturned
    the prose.
    """
    (row,) = (row for row in rows("full/table_claims") if row["statement"] == statement)
    if row["verdict"] != verdict:
        raise ValueError(f"{statement!r} is {row['verdict']} now: write the prose of README anew")
    digits = 2 if row["unit"] == "rank correlation" else 1
    value, low, high = (f"{float(row[k]):+.{digits}f}" for k in ("difference", "low", "high"))
    # A bootstrap knows no p small enough to be corrected.
    resampled = row["of"].startswith("policies")
    survives = verdict != "open" and float(row["p_holm"]) <= 0.05 and not resampled
    return f"{value} ({low} to {high}){'†' * survives}"


def gap(
    first: str, second: str, within: tuple[float, float] = (0, 1), task: str = "LeNet-300-100"
) -> str:
    """Return the mean difference of two methods on a network, within a range of sparsity."""
    table = pd.read_csv(ROOT / "data/results/full/claim_a.csv")
    here = (table["task"] == task) & table["sparsity"].between(*within)
    return difference(table[here], "method", first, second)


def steps_gap(first: str, second: str, sparsity: float) -> str:
    """Return the mean difference of two settings of notebook 11 at a sparsity."""
    table = pd.read_csv(ROOT / "data/results/full/choices.csv")
    return difference(table[table["sparsity"] == sparsity], "setting", first, second)


def difference(table: pd.DataFrame, key: str, first: str, second: str) -> str:
    """Return the paired mean difference of two kinds of rows, and its interval."""
    values = paired_gap(table, key, first, second)
    row = paired_statement("", "", values, "points", "seeds", 0.95)
    return "{difference:+.1f} ({low:+.1f} to {high:+.1f})".format(**row)


def closest() -> int:
    """Return within how many points Panning is of its rivals on LeNet-300-100, up to 99 %."""
    table = pd.read_csv(ROOT / "data/results/full/claim_a.csv")
    here = table[(table["task"] == "LeNet-300-100") & (table["sparsity"] < 0.991)]
    means = 100 * here.pivot_table(index="sparsity", columns="method", values="accuracy")
    rivals = ["snip", "grasp", "synflow", "iterative_snip", "force"]
    gaps = means[rivals].sub(means["panning"], axis=0).abs()
    return math.ceil(gaps.max().max())


def mean(method: str, sparsity: float) -> str:
    """Return the mean accuracy (%) of a method on LeNet-300-100 at a sparsity."""
    table = pd.read_csv(ROOT / "data/results/full/claim_a.csv")
    here = (table["task"] == "LeNet-300-100") & (table["sparsity"] == sparsity)
    return f"{100 * table[here & (table['method'] == method)]['accuracy'].mean():.0f}"


def spread(sparsity: float) -> str:
    """Return the standard deviation (points) of the random policies' accuracies."""
    table = pd.read_csv(ROOT / "data/results/full/reward.csv")
    return f"{100 * table[table['sparsity'] == sparsity]['accuracy'].std():.1f}"


def span_over_steps(sparsity: float) -> str:
    """Return the range (points) of mean accuracy over the numbers of steps of notebook 11."""
    table = pd.read_csv(ROOT / "data/results/full/choices.csv")
    steps = table["setting"].str.startswith("T = ") | (table["setting"] == "Panning")
    means = table[steps & (table["sparsity"] == sparsity)].groupby("setting")["accuracy"].mean()
    return f"{100 * (means.max() - means.min()):.1f}"


def correlations(quantity: str) -> str:
    """Return the rank correlation of a quantity with accuracy, at each sparsity."""
    table = pd.read_csv(ROOT / "data/results/full/reward.csv")
    sign = -1 if quantity.startswith("loss") else 1
    parts = [
        f"{sign * spearman(part[quantity], part['accuracy']):+.2f} at {100 * rho:g} %"
        for rho, part in table.groupby("sparsity")
    ]
    return " and ".join(parts)


def summary() -> str:
    """Return what the full study found, in words, with the numbers of its table of claims."""

    def panning(name: str, verdict: str, network: str = "LeNet-300-100") -> str:
        return said(f"Panning is above {name} on {network}, mean over sparsities", verdict)

    def learned(network: str, verdict: str) -> str:
        return said(f"RLPanning is above Panning on {network}, mean over sparsities", verdict)

    def itself(how: str, verdict: str) -> str:
        return said(f"Panning is above itself {how}", verdict)

    def agents(what: str, where: str, verdict: str) -> str:
        verb = "make better networks" if what != "best constant" else "earn more"
        return said(f"the unchanged agents {verb} than {what} {where}", verdict)

    def alone(metric: str, verdict: str) -> str:
        return said(f"the hand-made fusion is above {metric} alone", verdict)

    def rank(what: str, where: str, verdict: str) -> str:
        return said(what.format(where), verdict)

    force = said("FORCE is above iterative SNIP on LeNet-300-100, mean over sparsities", "holds")
    near, far = (gap("panning", "panning+shuffled", within) for within in ((0, 0.991), (0.991, 1)))
    better = "agents rewarded for trainability make better networks than the paper's, all targets"
    returns = "policies with a higher return make networks that train better at {} %"
    trial = "networks with a lower loss after 100 steps of a trial train better at {} %"
    learns = said("agents (design) earn more than the best constant p on unseen networks", "open")
    images, widths, others = "with fewer images", "on other widths", "on other architectures"
    elsewhere, fused = "on another data set", "iterative, fused (no return)"
    paragraphs = [
        "**In short**, from the full study: three small networks, 4,000 images of MNIST, one "
        "learning rate, two to five seeds. Differences are in points of test accuracy, with 95 % "
        "intervals, unless it says otherwise. Those marked † survive a correction for the number "
        "of statements of the same claim; the others do not, or were not put to it. Where "
        "networks die or never leave their plateau, accuracies are bimodal, and means and "
        "*t*-intervals are poor summaries of them.",
        "* **A, strong at every compression ratio, most where the network underfits: the first "
        "is shown against none here, the second against SNIP and GraSP, and reversed against "
        "SynFlow, FORCE and iterative SNIP on LeNet-300-100, against SynFlow on ResNet-20.** On "
        "LeNet-300-100 up to 99 % sparsity little parts the methods: Panning is within "
        f"{closest()} points of SNIP, GraSP, SynFlow, iterative SNIP and FORCE. At 99.9 and 99.95 "
        f"% it reaches {mean('panning', 0.999)} and {mean('panning', 0.9995)} %, above SNIP and "
        "GraSP, which hardly learn there, and below SynFlow, iterative SNIP and FORCE (each "
        "interval leaves out 0 at one of the two only); the sparsities from 99.8 % on decide the "
        f"means over nine (SNIP {panning('SNIP', 'holds')}, GraSP {panning('GraSP', 'holds')}, "
        f"FORCE {panning('FORCE', 'contradicted')}, SynFlow {panning('SynFlow', 'contradicted')}, "
        f"iterative SNIP {panning('iterative SNIP', 'contradicted')}). On LeNet-5, mean of 99 and "
        f"99.9 %, it is above SNIP ({panning('SNIP', 'holds', 'LeNet-5')}) and iterative SNIP "
        f"({panning('iterative SNIP', 'holds', 'LeNet-5')}), all of it at 99.9 %, where SNIP's "
        "networks hardly learn; and cannot be told from SynFlow "
        f"({panning('SynFlow', 'open', 'LeNet-5')}). These means are not robust: in an earlier "
        "run, that differed in last digits, one network of Panning did not learn, and the gain "
        "on iterative SNIP was open. On ResNet-20, at a quarter of its width, mean of 95, 98 and "
        f"99.5 %, it is above SNIP ({panning('SNIP', 'holds', 'ResNet-20')}), all of it at 99.5 "
        "%, where SNIP's networks are dead; below SynFlow "
        f"({panning('SynFlow', 'contradicted', 'ResNet-20')}); and against iterative SNIP "
        f"({panning('iterative SNIP', 'open', 'ResNet-20')}) lower at 95 % "
        f"({gap('panning', 'iterative_snip', (0.95, 0.95), 'ResNet-20')}) and 98 % "
        f"({gap('panning', 'iterative_snip', (0.98, 0.98), 'ResNet-20')}; there SynFlow and the "
        "fusion without return, too, are far above it), open at 99.5 % "
        f"({gap('panning', 'iterative_snip', (0.995, 0.995), 'ResNet-20')}). RLPanning against "
        f"Panning: {learned('LeNet-300-100', 'open')} on LeNet-300-100, on LeNet-5 "
        f"{learned('LeNet-5', 'contradicted')}, all of it at 99.9 %.",
        "* **B, the learned policy withstands changes: by its reward that of width, less surely "
        "that of data set size; the rest is open.** Unchanged, the agents earn more than the "
        f"constant *p* that a search of 20 trials found, {images} "
        f"({agents('best constant', images, 'holds')}) and {widths} "
        f"({agents('best constant', widths, 'holds')}); {elsewhere} "
        f"({agents('best constant', elsewhere, 'open')}) and {others} "
        f"({agents('best constant', others, 'open')}) one cannot tell, though on LeNet-5 all five "
        "earn less. Widths 2, and 4 at 98 %, were left out for time after they had been seen: "
        "with them it was +2.8 (+2.1 to +3.4). Against SynFlow alone, a constant too, widths are "
        "open "
        f"({said('the unchanged agents earn more than SynFlow alone on other widths', 'open')}). "
        "Nor is any of five ways to train agents shown to pass that constant on unseen networks "
        f"of their own kind (the design's: {learns}, of reward). That they make better networks "
        "is nowhere shown, and SynFlow alone or random actions often make better ones in mean: "
        f"against the hand-made table {agents('hand-made', images, 'open')} {images}, "
        f"{agents('hand-made', widths, 'open')} {widths}, "
        f"{agents('hand-made', elsewhere, 'open')} {elsewhere} and "
        f"{agents('hand-made', others, 'open')} {others} (there by networks of LeNet-5 that "
        "hardly learn). They are five agents on four initialisations.",
        "* **Does the reward say what one wants?** Over 120 random policies (one network, T = "
        "20) the rank correlation of return and accuracy is "
        f"{rank(returns, '98', 'contradicted')} at 98 % and {rank(returns, '99.8', 'holds')} at "
        "99.8 %. That of the loss after a short trial of training, with its sign turned, is "
        f"{rank(trial, '98', 'holds')} and {rank(trial, '99.8', 'holds')}; that of the untrained "
        "network's squared gradient norm, which costs one gradient and was looked at afterwards, "
        f"{correlations('initial_grad_norm_sq')}. At 98 % these networks differ by a standard "
        f"deviation of {spread(0.98)} points, no more than what 1,000 test images can tell. "
        "Agents that learned from such a trial are not shown to make better networks "
        f"({said(better, 'open')}, three agents against five).",
        "* **C, force transfer: the return of weights goes with a loss in Panning, a gain in "
        f"SNIP.** Panning with it against without: {panning(fused, 'contradicted')} "
        f"on LeNet-300-100, {panning(fused, 'contradicted', 'ResNet-20')} on ResNet-20 (most of "
        f"it at 98 %), {panning(fused, 'open', 'LeNet-5')} on LeNet-5; FORCE against iterative "
        f"SNIP, which score by the gradients of the masked network: {force}, though below it at "
        "99.95 %. The two pairs differ in more than the score. One step alone leaves dead "
        "networks at 99.8 %, and is level at 98 %; that a hundred do better than three is not "
        f"seen ({steps_gap('Panning', 'T = 3', 0.998)}; three hundred do worse, "
        f"{steps_gap('T = 300', 'Panning', 0.998)}), and at 98 % the means of all numbers of "
        f"steps lie within {span_over_steps(0.98)} points. The choice of weights counts beyond "
        f"the densities of the layers: up to 99 % {near}, most of it at 99 %, above that {far}, "
        "where those with shuffled masks hardly learn or do not, cut paths being part of it. "
        "Little of it rests on values and classes (mean of 98 and 99.5 %, Panning minus itself): "
        f"with weights drawn anew {itself('with its weights drawn anew', 'open')}, scored on "
        f"shuffled classes {itself('scored on shuffled classes', 'open')}, on shuffled pixels, "
        f"which do cost, {itself('scored on shuffled pixels', 'holds')}.",
        "* **The fusion** (mean of 98 and 99.8 %, nearly all of it at 99.8 %): the sum is above "
        f"SNIP alone ({alone('SNIP', 'holds')}), open against GraSP ({alone('GraSP', 'open')}) "
        f"and SynFlow alone ({alone('SynFlow', 'open')}), and below the product "
        f"({said('the hand-made fusion is above the product', 'contradicted')}); the gradients of "
        "the dense network are below those of the masked one "
        f"({itself('with the gradients of the masked network', 'contradicted')}).",
    ]
    filled = [
        textwrap.fill(text, 120, subsequent_indent="  " * text.startswith("* "))
        for text in paragraphs
    ]
    return "\n\n".join([filled[0], "\n".join(filled[1:])])


def section() -> str:
    """Return the results part of README.md, from the tables in figures/."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    grid, level = params["comparison"], params["statistics"]["confidence"]
    seeds = len(grid["seeds"])
    claims = [claim(row) for row in rows("full/table_claims") if row["headline"] == "True"]
    return f"""{START}
{summary()}

![Accuracy over sparsity on three networks](figures/full/accuracy.png)

What became of the claims, in the full study (`make full`,
[`profiles/full.yaml`](profiles/full.yaml)): each row is a statement that the data could
contradict, a difference that the claim says is positive, with its interval. The verdict follows
from the interval by rule: the statement *holds* where all of it is above 0, is *contradicted*
where all is below, and stays *open* where these data do not tell. *Not after correction*: the
verdict does not survive Holm's correction for the number of statements of the same claim;
*uncorrected*: resampled over policies, with no *p* small enough to be corrected. The intervals
speak of other initialisations and, for B, other agents; not of other test images. These
are the headlines; [`12_claims`](notebooks/12_claims.ipynb) has all of them ([as a
table](figures/full/table_claims.csv)).

{markdown(claims).replace("---:", "---")}

![What Panning gains on each method](figures/full/gains.png)

![What the choice of weights rests on](figures/full/checks.png)

What `make rebuild` makes in minutes is a chosen part of this. Test accuracy (%) of the last epoch,
`{grid["network"]}` on `{params["data"]["name"]}`, {seeds} paired seeds, mean ± half the
{level:.0%} *t*-interval:

{markdown(rows("table_comparison"))}

![Speed-up of a training step over sparsity](figures/training_speedup.png)

Does it accelerate training, on the clock? A step of a pruned network without its dead channels
(`lib.compact`), against a dense step, one thread, no GPU. With Panning's masks, pruning (T =
{params["panning"]["steps"]}) costs so many epochs of dense training on 4,000 images, and is won
back after so many:

{markdown([speed(row) for row in rows("table_speed")])}

![Cost of an iteration of Panning](figures/panning_cost.png)

[`06_speed`](notebooks/06_speed.ipynb) tells what these times are made of; `make bench` measures
them.
{END}"""


def main() -> None:
    """Put the section into README.md."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    path.write_text(before + section() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
