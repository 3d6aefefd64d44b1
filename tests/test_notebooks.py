"""The notebooks in their committed form, and what the pipeline says of them."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

import lib
from lib import config
from lib.grid import closure

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FULL = 7  # the first notebook of the full study
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
FULL_STAGES = yaml.safe_load((ROOT / "profiles/full/dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
FULL_PARAMS = yaml.safe_load((ROOT / "profiles/full.yaml").read_text())

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(path):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tree(path):
    return ast.parse("\n".join(cell.source for cell in code(path)))


def sections(path):
    """{section: literal value} of the cell tagged `parameters`."""
    (cell,) = [cell for cell in code(path) if "parameters" in cell.metadata.get("tags", [])]
    return {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(cell.source).body
    }


def of_the_full_study(path):
    return int(path.name[:2]) >= FULL


def params_of(path):
    return FULL_PARAMS if of_the_full_study(path) else PARAMS


def stage_of(path):
    stages = FULL_STAGES if of_the_full_study(path) else STAGES
    (stage,) = [stage for stage in stages.values() if f"notebooks/{path.name}" in stage["cmd"]]
    return stage


def declared_params(path):
    """What a stage says it reads; the full study's stages name their file."""
    params = stage_of(path)["params"]
    if not of_the_full_study(path):
        return params
    (found,) = params
    return found["profiles/full.yaml"]


def declared(stage, *kinds):
    entries = [entry for kind in kinds for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def read_from_params(module):
    """The sections X that code reads as `params.X`."""
    return {
        node.attr
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "params"
    }


def imported(module):
    """The modules of lib that code imports; `lib.pan` stands for the one where `pan` lives."""
    found = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module == "lib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lib."):
            found.add(node.module.removeprefix("lib."))
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "lib":
            found.add(lib._HOME[node.attr])
    return found


def test_there_are_numbered_notebooks_and_a_stage_for_each():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(13)]
    assert len([stage for stage in STAGES.values() if "papermill" in stage["cmd"]]) == FULL
    assert len(FULL_STAGES) == 13 - FULL
    for stage in FULL_STAGES.values():  # notebooks find the repository from where it is run
        assert stage["wdir"] == "../.." and "-f profiles/full.yaml" in stage["cmd"]


@every_notebook
def test_a_notebook_is_committed_without_outputs_or_traces_of_a_run(path):
    for cell in code(path):
        assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    metadata = nbformat.read(path, as_version=4).metadata
    assert set(metadata) == {"kernelspec", "language_info"}
    assert metadata["kernelspec"]["name"] == "python3"


@every_notebook
def test_a_notebook_opens_with_its_purpose_and_then_its_parameters(path):
    first, second = nbformat.read(path, as_version=4).cells[:2]
    assert first.cell_type == "markdown"
    for word in ("Shows", "Claim", "In:", "Out:"):
        assert word.lower() in first.source.lower()
    assert second.metadata["tags"] == ["parameters"]


@every_notebook
def test_a_notebook_defines_no_classes_and_no_functions(path):
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    defined = [node.name for node in ast.walk(tree(path)) if isinstance(node, kinds)]
    readers_own = ["Net", "__init__", "forward"] if path.stem == "00_quickstart" else []
    assert defined == readers_own


@every_notebook
def test_a_notebooks_parameters_are_those_of_params_yaml(path):
    found = sections(path)
    assert found == {name: params_of(path)[name] for name in found}


@every_notebook
def test_a_stage_declares_the_parameters_that_its_notebook_uses(path):
    found = sections(path)
    assert sorted(declared_params(path)) == sorted(f"{s}.{k}" for s in found for k in found[s])
    used = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
    attributes = read_from_params(tree(path))
    assert attributes <= set(found)
    if "grids" in used:  # which is given all of them
        attributes |= read_from_params(ast.parse((ROOT / "lib" / "grids.py").read_text()))
    for name in found:  # each section goes through config.parse, and is then read
        assert name in used and name in attributes


@every_notebook
def test_a_notebook_reads_no_parameter_that_papermill_alone_injects(path):
    """`-f params.yaml` injects every section: one that is not declared must not be used."""
    hidden = set(params_of(path)) - set(sections(path))
    used = {
        node.id
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assigned = {
        node.id
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    } | {
        alias.asname or alias.name
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not (used & hidden) - assigned


@every_notebook
def test_a_stage_depends_on_every_module_that_its_notebook_imports(path):
    wanted = {f"lib/{file.name}" for module in imported(tree(path)) for file in closure(module)}
    deps = declared(stage_of(path), "deps")
    assert {dep for dep in deps if dep.startswith("lib/")} == wanted
    assert f"notebooks/{path.name}" in deps


def test_the_data_stage_depends_on_what_its_module_imports():
    deps = declared(STAGES["data"], "deps")
    assert set(deps) == {f"lib/{file.name}" for file in closure("datasets")}


@every_notebook
def test_a_stage_reads_and_writes_the_tables_that_its_notebook_names(path):
    source = "\n".join(cell.source for cell in code(path))
    written = set(re.findall(r'write_(?:table|scalars)\(\s*"([\w/]+)"', source))
    stage = stage_of(path)
    outs = declared(stage, "plots", "metrics", "outs")
    tables = {out.removeprefix("data/results/") for out in outs if "data/results" in out}
    assert {table.rpartition(".")[0] for table in tables} == written
    for out in (entry for kind in ("plots", "metrics") for entry in stage.get(kind, [])):
        assert next(iter(out.values())) == {"cache": False}, "results are kept in git, not in DVC"
    draws = path.stem in ("05_figures", "06_speed", "12_claims")
    assert draws == any(out.startswith("figures/") for out in outs)
    deps = set(declared(stage, "deps"))
    if path.stem == "06_speed":
        assert "benchmarks/results.csv" in deps
        return
    read = set(re.findall(r'read_table\(\s*"([\w/]+)"', source)) - written
    if path.stem == "05_figures":
        read |= {f"metrics_{name}" for name in ("scores", "correlation", "overlap", "densities")}
        read |= {"comparison", "rlpanning"}
    assert deps >= {f"data/results/{name}.csv" for name in read}


def test_the_full_study_draws_every_figure_that_it_declares():
    path = ROOT / "notebooks" / "12_claims.ipynb"
    saved = {
        node.args[1].value
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "plotting.save"
    }
    outs = {out for out in declared(stage_of(path), "plots") if out.endswith(".svg")}
    assert outs == {f"figures/{name}.svg" for name in saved}


@pytest.mark.parametrize("name", ["smoke"])  # the others are of profiles/full.yaml's shape
def test_a_profile_is_a_complete_params_file(name):
    profile = yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text())
    assert {s: set(v) for s, v in profile.items()} == {s: set(v) for s, v in PARAMS.items()}
    config.load(ROOT / "profiles" / f"{name}.yaml")
    config.load(ROOT / "params.yaml")


def test_the_policy_in_params_yaml_is_the_librarys_default():
    from lib.policies import STAGES as default

    assert config.load(ROOT / "params.yaml").panning.stages == default
