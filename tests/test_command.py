"""The command `panning` runs the study's own cells, and says what is wrong with a request."""

import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

import lib
from lib.agent import AgentPolicy, save_policy
from lib.data import sources
from lib.masks import load_masks
from lib.methods import METHODS
from lib.networks.architectures import NETWORKS, PACKAGES
from lib.study import command, grid, parameters, plans, pruning, worlds

ROOT = Path(__file__).parents[1]
SMALL = ["--data", "digits", "--network", "lenet300", "--width", "0.05"]
TRAINED = [*SMALL, "--epochs", "1", "--batch-size", "30", "--workers", "1", "--device", "cpu"]


@pytest.fixture
def say(toy, capsys):
    """`say(*arguments)`: the exit status, and what is written to either stream."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = command.main(arguments)
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


# --- help ----------------------------------------------------------------------------------------


def test_help_fits_one_screen_and_does_not_wait_for_torch() -> None:
    program = "import sys; from lib.study.command import main\ntry: main(['--help'])\n"
    program += "except SystemExit: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert done.stderr.strip() == "False"


def test_help_names_every_method_data_set_network_and_command() -> None:
    text = command.parser().format_help()
    words = text.replace("(", " ").replace(":", " ").split()
    plain = [name for name in NETWORKS if not name.endswith("_plain")]
    assert {"dense", *METHODS, *sources.DATASETS, *plain, *PACKAGES} <= set(words)
    assert "vgg11_plain" in text
    for name in ("prune", "train", "compare"):
        assert f"panning {name}" in text


def test_what_help_shows_can_be_typed() -> None:
    text = command.MORE.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("  panning")]
    assert len(lines) == 2
    for line in lines:
        _, *arguments = shlex.split(line)
        command.parser().parse_args(arguments)


def test_it_is_installed_by_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, function = project["scripts"]["panning"].split(":")
    assert getattr(importlib.import_module(module), function) is command.main


# --- prune ---------------------------------------------------------------------------------------


def test_prune_gives_the_masks_of_the_cell_and_keeps_them(say, workspace) -> None:
    place = [*SMALL, "--sparsity", "0.9", "--seed", "3", "--steps", "4", "--device", "cpu"]
    status, out, err = say("prune", *place, "--json", "--save", "kept/masks")
    assert status == 0, err
    found, saved = json.loads(out), load_masks("kept/masks")
    _, [(_, cell)] = command._only(command.parser().parse_args(["prune", *place]))
    expected = pruning.prune_and_train(**cell)
    assert pruning.name_of(saved.effective.flat) == expected["mask"]
    assert found["sparsity"] == saved.masks.sparsity == expected["sparsity_reached"]
    assert found["effective_sparsity"] == expected["effective_sparsity"]
    assert (saved.card["network"], saved.card["seed"]) == ("lenet300", 3)
    layers = {row["layer"]: row["kept"] for row in found["layers"]}
    assert layers == {name: int(mask.sum()) for name, mask in saved.masks.items()}
    assert "Panning" in err  # the progress bar


@pytest.mark.parametrize("method", ["synflow", "panning_masked"])
def test_the_iterations_asked_for_are_those_of_any_method(method: str, workspace) -> None:
    place = ["prune", *SMALL, "--sparsity", "0.9", "--method", method]
    _, [(_, usual)] = command._only(command.parser().parse_args(place))
    _, [(_, asked)] = command._only(command.parser().parse_args([*place, "--steps", "4"]))
    assert usual["steps"] == (METHODS[method].steps or 100)
    assert asked == usual | {"steps": 4}


def test_prune_shows_a_table(say) -> None:
    status, out, _ = say("prune", *SMALL, "--sparsity", "0.9", "--method", "snip")
    assert status == 0
    assert out.splitlines()[0].split()[:4] == ["layer", "shape", "weights", "kept"]
    assert "lenet300 on digits, snip, seed 0: sparsity 0.9" in out


# --- train and compare ---------------------------------------------------------------------------


def test_train_is_one_cell(say) -> None:
    place = [*TRAINED, "--sparsity", "0.9", "--method", "synflow", "--seed", "2", "--steps", "3"]
    status, out, err = say("train", *place, "--json")
    assert status == 0, err
    row = json.loads(out)
    _, [(_, cell)] = command._only(command.parser().parse_args(["train", *place]))
    assert {k: row[k] for k in ("method", "sparsity", "seed")} == {
        "method": "synflow",
        "sparsity": 0.9,
        "seed": 2,
    }
    assert row.items() >= pruning.prune_and_train(**cell).items()
    status, out, _ = say("train", *place)
    assert ["accuracy", f"{row['accuracy']:.6g}"] in [line.split() for line in out.splitlines()]


def test_train_takes_an_optimizer_and_a_rate_of_ones_own(say) -> None:
    place = ["--method", "dense", "--optimizer", "adam", "--learning-rate", "0.002"]
    arguments = command.parser().parse_args(["train", *TRAINED, *place, "--weight-decay", "0"])
    _, [(_, cell)] = command._only(arguments)
    training = cell["training"]
    assert (training.optimizer, training.learning_rate) == ("adam", 0.002)
    assert (training.weight_decay, training.epochs, training.batch_size) == (0, 1, 30)
    assert say("train", *TRAINED, *place)[0] == 0


def test_compare_runs_each_method_sparsity_and_seed(say) -> None:
    what = ["--methods", "dense,snip,panning+shuffled", "--sparsities", "0.5,0.9", "--seeds", "0,1"]
    status, out, err = say("compare", *TRAINED, *what, "--steps", "2", "--json")
    assert status == 0, err
    found = json.loads(out)
    rows = {(row["method"], row["sparsity"], row["seed"]) for row in found["rows"]}
    sparse = [(m, rho) for m in ("snip", "panning+shuffled") for rho in (0.5, 0.9)]
    assert rows == {(m, rho, seed) for m, rho in [("dense", 0.0), *sparse] for seed in (0, 1)}
    assert {line["n"] for line in found["summary"]} == {2}
    line = next(x for x in found["summary"] if (x["method"], x["sparsity"]) == ("snip", 0.9))
    both = [row for row in found["rows"] if (row["method"], row["sparsity"]) == ("snip", 0.9)]
    assert line["accuracy"] == pytest.approx(50 * sum(row["accuracy"] for row in both))
    assert line["compacted"] == pytest.approx(50 * sum(row["flops_compacted"] for row in both))
    status, out, _ = say("compare", *TRAINED, *what, "--steps", "2")
    assert out.splitlines()[0].split() == [
        *("task", "method", "sparsity", "n", "accuracy", "±"),
        *("effective", "FLOPs", "compacted"),
    ]
    assert "95 % t-interval" in out


def test_what_is_finished_is_not_computed_again(say, monkeypatch) -> None:
    what = [
        "compare",
        *TRAINED,
        "--methods",
        "snip",
        "--sparsities",
        "0.9",
        "--seeds",
        "0",
        "--json",
    ]
    first = say(*what)
    monkeypatch.setattr(pruning, "train", None)
    assert say(*what)[:2] == first[:2]
    _, out, _ = say(*what)
    assert json.loads(out)["summary"][0]["±"] is None  # of one seed there is no interval


def test_the_cells_are_those_of_the_notebook(toy, workspace, capsys) -> None:
    """So a slice computed by hand is found when `make full` comes to it."""
    profile = yaml.safe_load((ROOT / "profiles/paper.yaml").read_text())
    (workspace / "profiles").mkdir()
    (workspace / "profiles/paper.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    sources.folder_of("mnist").mkdir(parents=True)
    line = ["compare", "--profile", "profiles/paper.yaml", "--task", "LeNet-5, MNIST"]
    line += ["--methods", "snip,panning", "--sparsities", "0.99", "--seeds", "0"]
    _, plan = command._plan(command.parser().parse_args(line))
    assert [(row["method"], row["sparsity"], row["seed"]) for row, _ in plan] == [
        ("snip", 0.99, 0),
        ("panning", 0.99, 0),
    ]
    whole = plans.comparison(parameters.load("profiles/paper.yaml"))
    keys = {grid.digest(pruning.prune_and_train, cell) for _, cell in whole}
    assert {grid.digest(pruning.prune_and_train, cell) for _, cell in plan} <= keys


def test_a_whole_profile_is_compared_where_nothing_is_named(toy, workspace, capsys) -> None:
    sources.folder_of("mnist5k").mkdir(parents=True)
    params, plan = command._plan(command.parser().parse_args(["compare"]))
    assert plan == plans.comparison(parameters.load("params.yaml"))
    assert "rlpanning is left out; --agent names one" in capsys.readouterr().err


def test_rlpanning_takes_an_agent(say, workspace) -> None:
    torch.manual_seed(0)
    actor = torch.nn.Sequential(
        *(torch.nn.Linear(7, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3), torch.nn.Tanh())
    )
    extremes = {"loss": [2.0, 3.0], "grad_norm_sq": [0.0, 1.0]}
    card = {"hidden": [4], "extremes": extremes, "sparsity": [0.8, 0.99], "action": "linear"}
    save_policy(AgentPolicy(actor.state_dict(), card), workspace / "agent")
    place = [*TRAINED, "--method", "rlpanning", "--sparsity", "0.9", "--steps", "2"]
    status, _, err = say("train", *place)
    assert (status, err.count("\n")) == (2, 1) and "rlpanning needs a trained agent" in err
    status, out, err = say("train", *place, "--agent", "agent", "--json")
    assert status == 0, err
    shown = say("prune", *place[: len(SMALL)], *place[-6:], "--agent", "agent", "--save", "masks")
    assert shown[0] == 0
    kept = load_masks("masks").effective
    assert pruning.name_of(kept.flat) == json.loads(out)["mask"]


def test_networks_of_packages_can_be_named(say) -> None:
    place = ["--data", "digits", "--width", "1", "--sparsity", "0.5", "--method", "magnitude"]
    name = "torchvision:mobilenet_v3_small"
    status, out, err = say("prune", *place, "--network", name, "--save", "masks")
    assert status == 0, err
    train_set, _ = worlds.load("digits", "cpu")
    model = lib.build_model(name, 1, 10, image_size=train_set.size)
    assert load_masks("masks", model).masks.sparsity == pytest.approx(0.5, abs=1e-4)


# --- what is wrong -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line_of_its_own(say) -> None:
    line = [*SMALL, "--sparsity", "0.999", "--method", "magnitude", "--json"]
    status, out, err = say("prune", *line)
    assert status == 0
    warned = [line for line in err.splitlines() if "warning" in line]
    assert len(warned) == 1
    assert warned[0].startswith("panning: warning: the mask leaves no effective weight")
    assert json.loads(out)["effective_sparsity"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --method snop --sparsity 0.9", "--method must be one of dense, .*got 'snop'"),
        ("train --method snip+magic --sparsity 0.9", r"with \+ and a check .*got 'snip\+magic'"),
        ("train --method snip", "--sparsity: panning train takes exactly one, got none"),
        (
            "prune --method snip,grasp --sparsity 0.9",
            "takes exactly one, got snip, grasp; `panning",
        ),
        ("prune --method dense", "--method: 'dense' prunes nothing itself"),
        ("prune --method snip --sparsity 1.5", r"sparsity must be in \[0, 1\)"),
        ("prune --sparsity 0.9 --network alexnet", "name must be one of .*got 'alexnet'"),
        ("prune --sparsity 0.9 --data mnist6k", "name must be one of .*got 'mnist6k'"),
        (
            "prune --sparsity 0.9 --task VGG",
            "--task must be one of LeNet-5; LeNet-300-100; got 'VGG'",
        ),
        ("prune --sparsity 0.9 --profile none.yaml", "profile: no file 'none.yaml'"),
        ("train --method rlpanning --sparsity 0.9 --agent none", "path: no policy at none.pt"),
        ("prune --sparsity 99", r"sparsity must be in \[0, 1\).*got 99"),
        ("train --sparsity 0.9 --epochs 0", "--epochs must be at least 1, got 0"),
        ("train --sparsity 0.9 --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("train --sparsity 0.9 --workers -1", "--workers must be at least 0, got -1"),
        ("prune --sparsity 0.9 --device cuda:99", r"--device: there are \d+ CUDA devices"),
        ("prune --sparsity 0.9 --device abacus", "compute.device must be auto, cpu or cuda"),
        ("prune --sparsity 0.9 --profile notes.yaml", "profile: notes.yaml is no YAML"),
        ("prune --sparsity 0.9 --save params.yaml/masks", "exists: 'params.yaml'|params.yaml"),
    ],
)
def test_a_mistake_is_said_in_a_line_and_without_a_traceback(say, line: str, message: str) -> None:
    Path("notes.yaml").write_text("*a note: [", encoding="utf-8")
    place = ["--data", "digits"] if "--data" not in line else []
    words = line.split()
    status, out, err = say(words[0], *place, *words[1:])
    assert (status, out) == (2, "")
    assert err.startswith("panning: ") and "Traceback" not in err
    assert re.search(message, err), err


def test_outside_a_clone_it_says_so(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["prune", "--sparsity", "0.9"]) == 2
    assert "run this from a clone" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(say, monkeypatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_train", stop)
    status, _, err = say("train")
    assert status == 130 and "give the same command again" in err


def test_what_is_named_twice_is_done_once() -> None:
    line = ["compare", "--seeds", "0,1,0", "--methods", "snip,snip", "--sparsities", "0.9,0.90"]
    found = command.parser().parse_args(line)
    assert (found.seeds, found.methods, found.sparsities) == ((0, 1), ("snip",), (0.9,))


def test_a_list_of_nothing_is_refused_and_the_command_is_named(capsys) -> None:
    with pytest.raises(SystemExit):
        command.parser().parse_args(["prune", "--seed", ","])
    assert "panning prune: error: argument --seed/--seeds: invalid list of int value: ','" in (
        capsys.readouterr().err
    )
