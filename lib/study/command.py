"""The command `panning`: prune a network, train it, compare methods, over the study's own cells.

What a notebook has computed is not computed again here, nor the other way round. Tables and JSON go
to the standard output, progress and messages to the standard error.
"""

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help should not wait for torch
    import pandas as pd

    from .parameters import Parameters, Task
    from .plans import Plan

ABOUT = """\
Prunes networks before training, in a clone of the companion.

  panning prune    choose the weights of one network; --save keeps the masks
  panning train    prune one network, train it, test it after the last epoch
  panning compare  that for each method, sparsity and seed, and a table
"""
MORE = """\
prune and train want a --sparsity; what else is not given comes from the first
task of params.yaml, or from what --task and --profile name. compare runs all
tasks if no --task, --data or --network is given. Each has its own --help. train
and compare keep what is finished: after an interruption give the command again.

  panning prune --network resnet20 --sparsity 0.98 --save masks
  panning compare --profile profiles/paper.yaml --task "LeNet-5, MNIST" \\
          --methods snip,panning --sparsities 0.99 --seeds 0,1

methods:  dense random erk magnitude snip grasp synflow iterative_snip force
          iterative_fused panning panning_product rlpanning panning_masked
          panning_select
data:     mnist5k digits mnist fashion_mnist cifar10 cifar100 tiny_imagenet
networks: lenet300 lenet5 vgg11 vgg13 vgg16 vgg19 (vgg11_plain: no batch norm)
          resnet20 resnet32 resnet44 resnet56 resnet110 torchvision:... timm:...
"""


def _list(kind: Callable[[str], Any]) -> Callable[[str], tuple]:
    def several(text: str) -> tuple:
        found = [kind(part.strip()) for part in text.split(",") if part.strip()]
        if not found:
            raise ValueError
        return tuple(dict.fromkeys(found))  # one seed given twice is one network, not two

    several.__name__ = f"list of {kind.__name__}"  # so argparse says "invalid list of int value"
    return several


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    form = argparse.RawDescriptionHelpFormatter
    usage = "panning {prune,train,compare} [options]"
    top = argparse.ArgumentParser(
        "panning", usage, ABOUT, MORE, formatter_class=form, add_help=False
    )
    top.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    commands = top.add_subparsers(dest="command", required=True, help=argparse.SUPPRESS)
    for name in ("prune", "train", "compare"):
        one = commands.add_parser(name, prog=f"panning {name}", usage=f"panning {name} [options]")
        add, several = one.add_argument, ", or several: 0,1,2" if name == "compare" else ""
        add("--profile", metavar="FILE", default="params.yaml", help="params.yaml if not given")
        add("--task", metavar="NAME", help="a task of the profile's comparison")
        add("--data", metavar="NAME", help="in place of the task's data set")
        add("--network", metavar="NAME", help="in place of the task's network")
        add("--width", metavar="X", type=float, help="factor on every hidden layer")
        add("--method", "--methods", dest="methods", metavar="NAME", type=_list(str),
            help=f"a method{several.replace('0,1,2', 'snip,panning')}")  # fmt: skip
        add("--sparsity", "--sparsities", dest="sparsities", metavar="X", type=_list(float),
            help=f"share of weights to remove{several.replace('0,1,2', '0.9,0.99')}")  # fmt: skip
        add("--seed", "--seeds", dest="seeds", metavar="N", type=_list(int),
            help=f"of network, batches and training{several}")  # fmt: skip
        add(
            "--steps",
            metavar="T",
            type=int,
            help="iterations, of methods that iterate; by default the profile's, or a method's own",
        )
        add("--agent", metavar="PATH", help="for rlpanning; data/agents/lenet300 is shipped")
        if name == "prune":
            add("--save", metavar="PATH", help="write the masks to PATH.npz and PATH.json")
        else:
            add("--epochs", metavar="N", type=int, help="in place of the task's")
            add("--batch-size", metavar="N", type=int, help="in place of the task's")
            add("--optimizer", choices=("sgd", "adam"), help="in place of the profile's")
            add("--learning-rate", metavar="X", type=float, help="in place of the profile's")
            add("--weight-decay", metavar="X", type=float, help="in place of the task's")
            add("--workers", metavar="N", type=int, help="processes; 0: one per core")
        add("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ...")
        add("--json", action="store_true", help="JSON in place of a table")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    top = parser()
    arguments = top.parse_args(argv)
    try:
        from . import process

        process.setup()
        command = {"prune": _prune, "train": _train, "compare": _compare}[arguments.command]
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            command(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"panning: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "interrupted; what is finished is kept: give the same command again"
        print(f"panning: {again}", file=sys.stderr)
        return 130
    return 0


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a user of the command wants it: without the line of ours that gave it."""
    print(f"panning: warning: {message}", file=sys.stderr)


# --- what is asked for -----------------------------------------------------------------------


def _tasks(params: "Parameters", arguments: argparse.Namespace) -> list["Task"]:
    """The tasks of a profile that are asked for, changed as the arguments say."""
    tasks = list(params.comparison.tasks)
    if arguments.task is not None:
        known = "; ".join(task.name for task in tasks)
        tasks = [task for task in tasks if task.name == arguments.task]
        if not tasks:
            raise ValueError(f"--task must be one of {known}; got {arguments.task!r}")
    elif arguments.command != "compare" or arguments.data or arguments.network:
        tasks = tasks[:1]
    names = ("data", "network", "width", "sparsities", "methods", "seeds")
    names += ("epochs", "batch_size", "weight_decay")
    changes = {n: v for n in names if (v := getattr(arguments, n, None)) is not None}
    changed = [task.changed(**changes) for task in tasks]
    if arguments.data or arguments.network:
        changed = [task.changed(name=f"{task.network}, {task.data}") for task in changed]
    return changed


def _plan(arguments: argparse.Namespace) -> tuple["Parameters", "Plan"]:
    """The parameters, and the cells that are asked for: those of the notebook."""
    from ..agent import load_policy
    from ..data import sources
    from ..methods import METHODS
    from . import checks, parameters, plans

    for name, least in (("epochs", 1), ("batch_size", 1), ("workers", 0)):
        value = getattr(arguments, name, None)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if arguments.device and arguments.device.startswith("cuda"):
        import torch

        number = torch.cuda.device_count()
        if int(arguments.device.partition(":")[2] or 0) >= number:
            raise ValueError(f"--device: there are {number} CUDA devices, got {arguments.device!r}")
    tasks = _tasks(parameters.load(arguments.profile), arguments)
    for name in (name for task in tasks for name in task.methods):
        base, plus, check = name.partition("+")
        if base not in (*METHODS, "dense") or (plus and check not in checks.CHECKS):
            raise ValueError(
                f"--method must be one of dense, {', '.join(METHODS)}, or one of them with + and "
                f"a check ({', '.join(checks.CHECKS)}); got {name!r}"
            )
    given = {
        "training": {"optimizer": "optimizer", "learning_rate": "learning_rate"},
        "panning": {"steps": "steps"},
        "compute": {"workers": "workers", "device": "device"},
    }
    changes: dict[str, Any] = {
        section: {n: v for n, a in names.items() if (v := getattr(arguments, a, None)) is not None}
        for section, names in given.items()
    }
    # The dense network is in every plan.
    listed = [t.changed(methods=[m for m in t.methods if m != "dense"]) for t in tasks]
    changes["comparison"] = {"tasks": [task.model_dump(mode="json") for task in listed]}
    params = parameters.load(arguments.profile, changes)
    plan = plans.comparison(params)
    if any("rlpanning" in task.methods for task in tasks):
        if arguments.agent:
            agent = load_policy(arguments.agent).plain()
            seeds = {seed for task in tasks for seed in task.seeds}
            plan += plans.comparison(params, dict.fromkeys(seeds, agent))
        elif arguments.methods:
            raise ValueError(
                "--agent: rlpanning needs a trained agent; data/agents/lenet300 is the one shipped"
            )
        else:
            print("panning: rlpanning is left out; --agent names one", file=sys.stderr)
    if arguments.methods:
        plan = [(row, cell) for row, cell in plan if row["method"] in arguments.methods]
    if arguments.steps is not None:  # also for a method that has a T of its own
        changed = {"steps": arguments.steps}
        plan = [(row, cell | changed if "steps" in cell else cell) for row, cell in plan]
    for name in dict.fromkeys(cell["data"] for _, cell in plan):
        if not sources.folder_of(name).is_dir():
            sources.fetch(name, params.data.test_size, params.data.split_seed)
    return params, plan


def _only(arguments: argparse.Namespace) -> tuple["Parameters", "Plan"]:
    """The same, for one network."""
    for name, short in (("methods", "method"), ("sparsities", "sparsity"), ("seeds", "seed")):
        values = getattr(arguments, name)
        if name == "methods" and not values:
            arguments.methods = ("panning",)
        elif name == "seeds" and not values:
            arguments.seeds = (0,)
        elif name == "sparsities" and arguments.methods == ("dense",):
            continue
        elif not values or len(values) != 1:
            count = "none" if not values else ", ".join(map(str, values))
            raise ValueError(
                f"--{short}: panning {arguments.command} takes exactly one, got {count}; "
                "`panning compare` takes several"
            )
    return _plan(arguments)


# --- the three commands ----------------------------------------------------------------------


def _prune(arguments: argparse.Namespace) -> None:
    from ..methods import METHODS, pan
    from .worlds import load, make_batches, make_network, make_policy

    _, [(row, cell)] = _only(arguments)
    method, seed, scoring = cell["method"], cell["seed"], cell["scoring"]
    if method == "dense" or "check" in cell:
        raise ValueError(f"--method: {row['method']!r} prunes nothing itself; use panning train")
    if arguments.save:  # before minutes of work
        folder = Path(arguments.save).parent
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise ValueError(f"--save: cannot write in {folder}")
    train_set, _ = load(cell["data"], cell["device"])
    result = pan(
        make_network(cell["network"], cell["width"], seed, train_set, cell["device"]),
        make_batches(train_set, scoring, seed),
        cell["sparsity"],
        None if METHODS[method].steps == 1 else cell["steps"],
        policy=make_policy(cell["policy"]) if "policy" in cell else None,
        method=method,
        progress=True,
        temperature=scoring.temperature,
        seed=seed,
        **cell["settings"],
    )
    place = {name: cell[name] for name in ("data", "network", "width", "seed")}
    if arguments.save:
        result.save(arguments.save, **place)
        print(f"panning: the masks are at {arguments.save}", file=sys.stderr)
    facts = {**place, "method": method, "sparsity": result.sparsity}
    facts |= {"effective_sparsity": result.effective_sparsity, "flops": result.flops}
    layers = result.layers.reset_index()
    if arguments.json:
        _write({**facts, "layers": layers.to_dict("records")})
        return
    print(layers.to_string(index=False, formatters={"density": "{:.4f}".format}))
    shares = {n: f / result.flops["dense"] for n, f in result.flops.items()}
    print(
        f"\n{place['network']} on {place['data']}, {method}, seed {seed}: sparsity "
        f"{result.sparsity:.6g}, effective {result.effective_sparsity:.6g}; "
        f"{shares['effective']:.3%} of {result.flops['dense']:,} multiply-adds"
    )


def _rows(params: "Parameters", plan: "Plan", what: str) -> list[dict[str, Any]]:
    from . import grid, pruning

    return grid.tabulate(pruning.prune_and_train, plan, params.compute, what)


def _train(arguments: argparse.Namespace) -> None:
    params, plan = _only(arguments)
    (row,) = _rows(params, plan, "Training")
    if arguments.json:
        _write(row)
        return
    width = max(map(len, row))
    for name, value in row.items():
        print(f"{name:{width}}  {value:.6g}" if isinstance(value, float) else
              f"{name:{width}}  {value}")  # fmt: skip


def _compare(arguments: argparse.Namespace) -> None:
    params, plan = _plan(arguments)
    rows = _rows(params, plan, "Networks")
    table = _summary(rows, params.statistics.confidence)
    if arguments.json:
        _write({"summary": table.to_dict("records"), "rows": rows})
        return
    formats = {"sparsity": "{:g}".format} | dict.fromkeys(
        ("accuracy", "±", "effective", "FLOPs", "compacted"),
        lambda value: "-" if math.isnan(value) else f"{value:.2f}",
    )
    print(table.to_string(index=False, formatters=formats))
    level = 100 * params.statistics.confidence
    print(
        f"\nIn per cent: accuracy after the last epoch, and half its {level:g} % t-interval over\n"
        "n seeds; then the share, of the dense network's, of effective weights, of multiply-adds\n"
        "with them, and of those that the compacted network does."
    )


def _summary(rows: Sequence[dict[str, Any]], confidence: float) -> "pd.DataFrame":
    """One line per task, method and sparsity, in the order of the plan; in per cent."""
    import pandas as pd

    from .statistics import interval

    lines = []
    table = pd.DataFrame(rows)
    for (task, method, rho), part in table.groupby(["task", "method", "sparsity"], sort=False):
        mean, low, _ = interval(100 * part["accuracy"], confidence)
        line = {"task": task, "method": method, "sparsity": rho, "n": len(part)}
        line |= {"accuracy": mean, "±": mean - low}
        line["effective"] = 100 * (1 - part["effective_sparsity"].mean())
        line["FLOPs"] = 100 * part["flops_effective"].mean()
        line["compacted"] = 100 * part["flops_compacted"].mean()
        lines.append(line)
    return pd.DataFrame(lines)


def _write(value: Any) -> None:
    """JSON, in which what is not a number is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and math.isnan(value) else value

    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
