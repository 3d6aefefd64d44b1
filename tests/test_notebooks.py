"""The notebooks in their committed form, and what the pipeline says of them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

import lib
from lib.policies import STAGES as HAND_MADE
from lib.study import notebook, parameters
from lib.study.grid import LIB, closure
from lib.study.parameters import Parameters
from tools import pipeline

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PIPELINES = {"": ROOT / "dvc.yaml", "full/": ROOT / "profiles/full/dvc.yaml"}
PARAMS = parameters.load(ROOT / "params.yaml")
SECTIONS = set(Parameters.model_fields)

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def resolved(path: Path) -> dict[str, Any]:
    """A pipeline with its variables filled in, as DVC does it."""
    text = path.read_text()
    values = {entry: value for each in yaml.safe_load(text)["vars"] if isinstance(each, dict)
              for entry, value in each.items()}  # fmt: skip
    values |= {"data.name": PARAMS.data.name, "environment.network": PARAMS.environment.network}
    return yaml.safe_load(re.sub(r"\$\{([\w.]+)\}", lambda found: values[found[1]], text))


STAGES = resolved(PIPELINES[""])["stages"]


def stage_of(path: Path) -> dict[str, Any]:
    (stage,) = [each for each in STAGES.values() if f"notebooks/{path.name}" in each["cmd"][0]]
    return stage


def declared(stage: dict[str, Any], *kinds: str) -> set[str]:
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def declared_sections(stage: dict[str, Any]) -> set[str]:
    (profile,) = stage["params"]
    return set(profile["params.yaml"])


def code(path: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def tree(path: Path) -> ast.Module:
    return ast.parse("\n".join(cell.source for cell in code(path)))


# --- the notebooks themselves --------------------------------------------------------------------


def test_there_are_eight_notebooks_and_a_stage_for_each() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(8)]
    for path in NOTEBOOKS:
        assert f"executed/{path.name}" in declared(stage_of(path), "outs")
    assert len(STAGES) == 1 + 8  # and the images


@every_notebook
def test_a_notebook_is_committed_without_outputs_or_traces_of_a_run(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert {"kernelspec"} <= set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata.get("language_info", {}).keys() <= {"name"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        assert not cell.get("outputs") and cell.get("execution_count") is None


@every_notebook
def test_a_notebook_opens_with_its_question_and_its_profile(path: Path) -> None:
    first, second, third = nbformat.read(path, as_version=4).cells[:3]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {int(path.name[:2])} · ")
    for mark in ("Question:", "Claims? of the paper", "In:", "Out:", "Takes"):
        assert re.search(rf"\*\*{mark}", first.source), f"its first cell lacks **{mark}**"
    assert second.metadata["tags"] == ["parameters"]
    assert second.source == 'profile = "params.yaml"\nchanges = {}'
    assert "notebook.begin(profile, changes)" in third.source


@every_notebook
def test_a_notebook_invites_to_try_and_ends_with_what_we_saw(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert re.findall(r"^## (.+)", text, re.M)[-2:] == ["Try it", "What we saw"]
    assert any("`" in part for part in re.findall(r"## Try it\n(.+?)\n## ", text, re.S))
    (last,) = [i for i, cell in enumerate(cells) if "## What we saw" in cell.source]
    answer = [cell for cell in cells[last + 1 :] if cell.cell_type == "code"]
    assert len(answer) == 1 and "print(" in answer[0].source  # it is computed


@every_notebook
def test_a_notebook_defines_no_class_and_no_function_of_more_than_a_few_lines(path: Path) -> None:
    own = path.stem == "00_quickstart"  # the reader's network
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef):
            assert own and node.name == "Net"
        if isinstance(node, ast.FunctionDef) and not own:
            assert node.end_lineno - node.lineno < 4, node.name


# --- the parameters that a stage reads -----------------------------------------------------------


@cache
def functions(module: str) -> dict[str, ast.FunctionDef]:
    """The functions of a module of lib.study."""
    body = ast.parse((LIB / "study" / f"{module}.py").read_text()).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef)}


def sections_read(code: ast.AST, module: str | None = None) -> set[str]:
    """The sections X that code reads as `params.X`, and functions that it gives all of them to.

    Raises:
        AssertionError: It hands `params` on in a way that is not followed here.
    """
    parents = {child: node for node in ast.walk(code) for child in ast.iter_child_nodes(node)}
    found: set[str] = set()
    for node, parent in parents.items():
        if not isinstance(node, ast.Name) or node.id != "params" or isinstance(node.ctx, ast.Store):
            continue
        if isinstance(parent, ast.Attribute):
            found |= {parent.attr} & SECTIONS
            assert parent.attr in SECTIONS | {"size", "datasets"}, parent.attr
            continue
        assert isinstance(parent, ast.Call) and node in parent.args, ast.unparse(parent)
        where, _, name = ast.unparse(parent.func).rpartition(".")
        found |= sections_of(where or module, name)
    return found


@cache
def sections_of(module: str, name: str) -> set[str]:
    """The sections that a function of lib.study reads, itself and through others."""
    function = functions(module)[name]
    assert "params" in [each.arg for each in function.args.args]
    return sections_read(function, module)


@every_notebook
def test_a_stage_declares_the_sections_that_its_notebook_reads_and_no_other(path: Path) -> None:
    assert sections_read(tree(path)) == declared_sections(stage_of(path))


@every_notebook
def test_a_section_that_is_read_and_not_declared_is_found_out(path: Path) -> None:
    """However it is read: by the notebook, or by a plan that it calls."""
    before, declared = sections_read(tree(path)), declared_sections(stage_of(path))
    for section in SECTIONS - declared:
        more = ast.parse(f"{ast.unparse(tree(path))}\nother = params.{section}")
        assert sections_read(more) - declared == {section}
    more = ast.parse(f"{ast.unparse(tree(path))}\nplans.transfers(params, {{}})")
    assert sections_read(more) >= before | {"transfer", "learning", "training", "environment"}


def test_sections_that_plans_alone_read_are_seen() -> None:
    by_hand = {
        node.attr
        for node in ast.walk(tree(ROOT / "notebooks/04_ablations.ipynb"))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "params"
    }
    read = sections_read(tree(ROOT / "notebooks/04_ablations.ipynb"))
    assert {"ablations", "checks", "search", "training", "scoring"} <= read - by_hand


def test_parameters_that_are_handed_on_unseen_are_refused() -> None:
    for way in ("everything = params", "f(params.model_dump())", "f(key=params)", "f([params])"):
        with pytest.raises(AssertionError):
            sections_read(ast.parse(way))


def test_the_images_depend_on_the_sections_that_name_data_sets() -> None:
    source = ast.parse((LIB / "study/parameters.py").read_text())
    (datasets,) = [n for n in ast.walk(source) if getattr(n, "name", "") == "datasets"]
    named = {n.attr for n in ast.walk(datasets) if isinstance(n, ast.Attribute)} & SECTIONS
    assert declared_sections(STAGES["data"]) == named | sections_of("fetch", "fetch")
    assert declared(STAGES["data"], "deps") == {"lib/data"}


# --- what a stage depends on, and makes ----------------------------------------------------------


def named(module: ast.Module, *methods: str) -> set[str]:
    """The names given to `results.read(name)` and the like, also in loops over literals."""
    known = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                known[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue

    def calls(node: ast.AST) -> Iterator[ast.Call]:
        for each in ast.walk(node):
            if isinstance(each, ast.Call) and ast.unparse(each.func) in methods:
                yield each

    found, looped = set(), set()
    for node in ast.walk(module):
        if isinstance(node, (ast.GeneratorExp, ast.ListComp)):
            for call in calls(node.elt):
                looped.add(call)
                loop = ast.Expression(ast.ListComp(call.args[0], node.generators))
                found |= set(eval(compile(ast.fix_missing_locations(loop), "", "eval"), known))
    return found | {call.args[0].value for call in calls(module) if call not in looped}


def imported(module: ast.Module) -> Iterator[str]:
    """The modules of lib that code imports; `lib.pan` stands for the one where `pan` lives."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lib":
            for name in (alias.name for alias in node.names):
                inside = LIB.parent.joinpath(*node.module.split("."), f"{name}.py").is_file()
                yield f"{node.module}.{name}" if inside else node.module
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "lib":
            yield f"lib.{lib._HOME[node.attr]}"


# What notebooks 05 and 06 import through others, and draw nothing with: paths, and names of types.
AROUND = {"data/files.py", "data/sources.py", "metrics.py", "networks/inspection.py"}


@every_notebook
def test_a_stage_depends_on_the_folders_of_what_its_notebook_imports(path: Path) -> None:
    deps = declared(stage_of(path), "deps")
    assert f"notebooks/{path.name}" in deps
    folders = [ROOT / dep for dep in deps if dep.startswith("lib")]
    files = {file for module in imported(tree(path)) for file in closure(module)}
    direct = {LIB.parent.joinpath(*m.split(".")).with_suffix(".py") for m in imported(tree(path))}
    outside = {file for file in files | direct if not {file, *file.parents} & set(folders)}
    assert not direct & outside
    assert {str(f.relative_to(LIB)) for f in outside if f.name != "__init__.py"} <= AROUND


@every_notebook
def test_a_stage_declares_the_tables_that_its_notebook_writes_and_reads(path: Path) -> None:
    stage, module = stage_of(path), tree(path)
    outs, deps = declared(stage, "outs", "metrics"), declared(stage, "deps")
    written = named(module, "results.write")
    tables = {out for out in outs if out.startswith("data/results/") and out.endswith(".csv")}
    assert tables == {f"data/results/{name}.csv" for name in written}
    scalars = {f"data/results/{name}.json" for name in named(module, "results.write_scalars")}
    assert scalars == declared(stage, "metrics")
    read = named(module, "results.read") - written
    assert {dep for dep in deps if "data/results" in dep} == {
        f"data/results/{name}.csv" for name in read
    }
    assert not read or path.stem == "05_figures"  # the others show what they have made themselves


@every_notebook
def test_a_stage_declares_whatever_else_its_notebook_reads_and_makes(path: Path) -> None:
    stage, source = stage_of(path), ast.unparse(tree(path))
    deps, outs = declared(stage, "deps"), declared(stage, "outs")
    agent = {f"data/agents/{PARAMS.environment.network}{end}" for end in (".pt", ".json")}
    saved = re.findall(r"save_policy\(.* / (?:'(\w+)'|params\.environment\.network)\)", source)
    names = {name or PARAMS.environment.network for name in saved}
    assert len(saved) == source.count("save_policy(")
    assert {out for out in outs if out.startswith("data/agents/")} == {
        f"data/agents/{name}{end}" for name in names for end in (".pt", ".json")
    }
    assert agent.issubset(deps) == ("load_policy(" in source)
    assert ("benchmarks/results.csv" in deps) == ("speed.read()" in source)
    assert ("benchmarks/race.csv" in deps) == ("speed.read('race')" in source)
    assert ("benchmarks/plain.py" in deps) == ("'plain.py'" in source)
    assert (f"data/raw/{PARAMS.data.name}" in deps) == (path.name[:2] not in {"05", "06"})
    draws = re.findall(r"(?<!\.)\bsave\(.+, '(\w+)'\)", source)
    files = {f"figures/{name}{end}" for name in draws for end in (".png", ".svg")}
    files |= {f"figures/{name}" for name in re.findall(r"results.figures / '([\w.]+)'", source)}
    assert {out for out in outs if out.startswith("figures/")} == files
    assert bool(files) == (path.stem == "05_figures")


# --- the pipeline --------------------------------------------------------------------------------


def test_a_slider_is_shown_where_widgets_are_alive_alone(monkeypatch) -> None:
    seen, shown = [], []
    monkeypatch.setattr("ipywidgets.widgets.interaction.display", lambda *w: shown.extend(w))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    notebook.slide(seen.append, 7)
    assert not seen and not shown
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/02_artificial_panning.ipynb")
    notebook.slide(seen.append, 7)
    assert seen == [7]  # the last iteration is shown first
    (slider,) = [part for part in shown[0].children if hasattr(part, "max")]
    slider.value = 3
    assert seen == [7, 3] and (slider.min, slider.max) == (1, 7)


@pytest.mark.parametrize("path", PIPELINES.values(), ids=str)
def test_a_pipeline_is_short_and_keeps_results_in_git(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 165
    for name, stage in resolved(path)["stages"].items():
        for out in stage.get("outs", []) + stage.get("metrics", []):
            kept = {"persist": True} if name == "data" else {"cache": False}
            assert list(out.values()) == [kept]


def test_the_full_studys_pipeline_is_the_default_one_in_folders_of_its_own() -> None:
    assert PIPELINES["full/"].read_text() == pipeline.full(PIPELINES[""].read_text())
    full = resolved(PIPELINES["full/"])["stages"]
    assert list(full) == list(STAGES)[1:]  # the images are fetched by `make full`
    for name, stage in full.items():
        assert stage["wdir"] == "../.."
        assert stage["params"] == [{"profiles/full.yaml": STAGES[name]["params"][0]["params.yaml"]}]
        for kinds in (["outs", "metrics"], ["deps"]):
            mine, others = declared(stage, *kinds), declared(STAGES[name], *kinds)
            moved = {re.sub("^(data/agents|data/results|figures|executed)/", r"\1/full/", o)
                     for o in others}  # fmt: skip
            assert mine == {name for name in moved if not name.startswith("data/raw")}
        assert stage["cmd"][0].endswith("-p profile profiles/full.yaml")


@pytest.mark.parametrize("size", PIPELINES)
def test_plots_name_columns_that_their_tables_have(size: str) -> None:
    made = {out for stage in STAGES.values() for out in declared(stage, "outs")}
    for entry in resolved(PIPELINES[size])["plots"]:
        name, axes = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
        name = name.removeprefix("../../")
        assert name.replace("full/", "") in made
        assert name.endswith(".csv") == bool(axes)
        if axes and (ROOT / name).is_file():
            assert {axes["x"], axes["y"]} <= set(pd.read_csv(ROOT / name, nrows=1))
            assert axes["title"]
        assert size or (ROOT / name).is_file()


def test_the_policy_in_params_yaml_is_the_librarys_default() -> None:
    assert PARAMS.panning.stages == HAND_MADE
