"""Masks come back from a file as they were, fit their network, and rebuild a compacted one."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lib
from lib.masks import FORMAT, SavedMasks, load_masks
from lib.methods import METHODS
from lib.panning import PanResult


@pytest.fixture
def result(cnn, batches) -> PanResult:
    return lib.pan(cnn, batches, 0.7, steps=3)


def test_masks_come_back_whether_a_suffix_is_named_or_not(result, cnn, tmp_path) -> None:
    result.save(tmp_path / "lenet-0.99")
    assert {p.name for p in tmp_path.iterdir()} == {"lenet-0.99.npz", "lenet-0.99.json"}
    for name in ("lenet-0.99", "lenet-0.99.npz", "lenet-0.99.json"):
        for model in (None, cnn):
            found = load_masks(str(tmp_path / name), model)
            assert isinstance(found, SavedMasks)
            assert found.masks == result.masks and found.effective == result.effective


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"rlpanning"}))
def test_the_card_says_how_the_masks_were_made(method: str, cnn, batches, tmp_path) -> None:
    result = lib.pan(cnn, batches, 0.7, method=method, seed=11)
    result.save(tmp_path / "masks", network="cnn")
    card = json.loads((tmp_path / "masks.json").read_text())
    assert card == load_masks(tmp_path / "masks").card
    candidates = METHODS[method].select
    made_by = candidates[card["selected"]] if candidates else method
    assert (card["method"], card["network"]) == (made_by, "cnn")
    assert card["steps"] == (METHODS[method].steps or 100)
    assert card["seed"] == (11 if method in ("random", "erk") else None)
    assert card["sparsity"] == result.sparsity
    assert card["effective_sparsity"] == result.effective_sparsity
    assert card["version"]
    layers = {each["name"]: each for each in card["layers"]}
    assert list(layers) == list(result.masks)
    for name, row in result.layers.iterrows():
        assert layers[name]["shape"] == list(result.masks[name].shape)
        assert layers[name]["kept"] == row["kept"]
        assert layers[name]["effective"] == row["effective"]


def test_a_weight_takes_a_bit_and_equal_masks_make_equal_files(mlp, batches, tmp_path) -> None:
    for name in ("one", "two"):
        lib.pan(mlp, batches, 0.7, steps=3).save(tmp_path / name, seed=4)
    for suffix in ("npz", "json"):
        one, two = (tmp_path / f"{name}.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as arrays:
        assert {arrays[name].nbytes for name in arrays} == {-(-354 // 8)}
    assert load_masks(tmp_path / "one").card["seed"] == 4


def test_a_note_that_json_cannot_write_is_refused_and_nothing_is_left(result, tmp_path) -> None:
    with pytest.raises(ValueError, match="card must hold plain values"):
        result.save(tmp_path / "masks", what=torch.nn)
    assert not list(tmp_path.iterdir())


# --- checked -------------------------------------------------------------------------------------


def test_masks_of_another_network_are_refused_by_the_layers_name(result, mlp, tmp_path) -> None:
    result.save(tmp_path / "masks")
    with pytest.raises(ValueError, match="model has no weight '0.weight', .*layers are 0.weight"):
        load_masks(tmp_path / "masks", mlp)


def test_masks_of_another_width_are_refused_with_both_shapes(result, cnn, tmp_path) -> None:
    result.save(tmp_path / "masks")
    cnn[4] = nn.Conv2d(4, 6, 2)
    with pytest.raises(ValueError, match=r"'4.weight' has shape \(6, 4, 2, 2\), .*\(5, 4, 2, 2\)"):
        load_masks(tmp_path / "masks", cnn)


def test_a_pruned_network_and_one_with_layers_left_out_still_fit(mlp, batches, tmp_path) -> None:
    result = lib.pan(mlp, batches, 0.5, steps=2, leave_out=["3"])
    result.save(tmp_path / "masks")
    assert "3.weight" not in load_masks(tmp_path / "masks", mlp).masks
    lib.apply_masks(mlp, result.masks)
    assert load_masks(tmp_path / "masks", mlp).masks == result.masks


def test_a_missing_file_is_named(result, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no masks at .*masks.npz; a result's save"):
        load_masks(tmp_path / "masks")
    result.save(tmp_path / "masks")
    (tmp_path / "masks.json").unlink()
    with pytest.raises(FileNotFoundError, match="masks.json"):
        load_masks(tmp_path / "masks")


def test_damage_is_found_and_nothing_pickled_is_read(result, tmp_path) -> None:
    path = tmp_path / "masks"
    result.save(path)
    bits, card = path.with_suffix(".npz").read_bytes(), path.with_suffix(".json").read_text()

    def refused(match: str) -> None:
        with pytest.raises(ValueError, match=match):
            load_masks(path)

    path.with_suffix(".npz").write_bytes(bits[:-40])
    refused("holds no usable masks")
    with path.with_suffix(".npz").open("wb") as file:
        np.savez(file, masks=np.array([{}]), effective=np.array([{}]))
    refused("holds no usable masks: .*allow_pickle=False")
    path.with_suffix(".npz").write_bytes(bits)
    for text in ("{", "[]", card.replace('"layers"', '"layer"')):
        path.with_suffix(".json").write_text(text)
        refused("holds no usable masks")
    path.with_suffix(".json").write_text(card.replace(f'"format": {FORMAT}', '"format": 99'))
    refused("is of format 99; this version reads")
    path.with_suffix(".json").write_text(card)
    assert load_masks(path).masks == result.masks


def test_bits_and_card_of_two_results_do_not_belong_together(cnn, batches, tmp_path) -> None:
    for name, rho in (("one", 0.7), ("two", 0.8)):
        lib.pan(cnn, batches, rho, steps=2).save(tmp_path / name)
    (tmp_path / "one.npz").replace(tmp_path / "two.npz")
    with pytest.raises(ValueError, match="two.npz and two.json do not belong together"):
        load_masks(tmp_path / "two")


# --- a compacted network, in another process -----------------------------------------------------


def test_a_compacted_network_is_read_back_in_another_process(tmp_path: Path) -> None:
    build = "lib.build_model('lenet5', width=0.2)"
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    images, targets = torch.randn(20, 1, 28, 28, generator=generator), torch.arange(20) % 10
    model = lib.build_model("lenet5", width=0.2)
    result = lib.pan(model, [(images, targets)], 0.98, steps=5)
    result.save(tmp_path / "masks")
    lib.apply_masks(model, result.effective)
    small = lib.compact(model, images)
    optimiser = torch.optim.SGD(small.parameters(), 0.1)
    for _ in range(3):  # so that it is no longer the network it was made from
        optimiser.zero_grad()
        nn.functional.cross_entropy(small(images), targets).backward()
        optimiser.step()
    torch.save(small.state_dict(), tmp_path / "small.pt")
    torch.save({"x": images, "y": small.eval()(images).detach()}, tmp_path / "seen.pt")
    program = f"""
        import torch, lib
        model = {build}
        seen = torch.load("seen.pt", weights_only=True)
        lib.apply_masks(model, lib.load_masks("masks", model).effective)
        small = lib.compact(model, seen["x"])
        small.load_state_dict(torch.load("small.pt", weights_only=True))
        torch.set_num_threads({torch.get_num_threads()})
        print(sum(p.numel() for p in small.parameters()))
        torch.testing.assert_close(small.eval()(seen["x"]), seen["y"], rtol=0, atol=0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(lib.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    sizes = [sum(p.numel() for p in each.parameters()) for each in (small, model)]
    assert int(done.stdout) == sizes[0] < 0.9 * sizes[1]


# --- what is wrong with a request ----------------------------------------------------------------


CHANGES = {
    "the order of the layers": lambda card: card["layers"].reverse(),
    "a shape": lambda card: card["layers"][0].update(shape=[1, 27, 2, 2]),
    "a fraction": lambda card: card["layers"][0].update(shape=[4.0, 3, 3, 3]),
    "a name": lambda card: card["layers"][0].update(name="4.weight"),
    "a number": lambda card: card["layers"][0].update(name=3),
    "a count": lambda card: card["layers"][0].update(kept=1),
    "one layer twice": lambda card: card["layers"].append(card["layers"][0]),
    "the sparsity": lambda card: card.update(sparsity=0.99),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_card_that_was_edited_is_refused(name: str, result, cnn, tmp_path) -> None:
    """Two layers of one size could change places, and nothing would be missing."""
    result.save(tmp_path / "masks")
    card = json.loads((tmp_path / "masks.json").read_text())
    CHANGES[name](card)
    (tmp_path / "masks.json").write_text(json.dumps(card))
    for model in (None, cnn):
        with pytest.raises(ValueError, match="do not belong together, or are damaged"):
            load_masks(tmp_path / "masks", model)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"x": float("nan")}, "card must hold plain values"),
        ({"x": {(1, 2): 3}}, "card must hold plain values"),
        ({"sparsity": 0.5}, "card: 'sparsity' is written by save itself"),
        ({"layers": []}, "card: 'layers' is written by save itself"),
        ({"format": 9}, "card: 'format' is written by save itself"),
    ],
)
def test_a_note_that_would_not_come_back_is_refused(result, notes, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        result.save(tmp_path / "masks", **notes)
    assert not list(tmp_path.iterdir())


def test_a_path_without_a_name_and_a_model_that_is_none_are_refused(result, tmp_path) -> None:
    for path in ("", ".", "/"):
        with pytest.raises(ValueError, match="path must name a file"):
            result.save(path)
    result.save(tmp_path / "masks")
    with pytest.raises(ValueError, match=r"model must be a torch.nn.Module, got str"):
        load_masks(tmp_path / "masks", "lenet5")


def test_masks_in_numpy_and_in_lists_are_applied(result, cnn) -> None:
    masks = {name: mask.numpy() for name, mask in result.masks.items()}
    masks["0.weight"] = masks["0.weight"].tolist()
    lib.apply_masks(cnn, masks)
    assert all(
        torch.equal(cnn.get_submodule(name.removesuffix(".weight")).weight_mask.bool(), mask)
        for name, mask in result.masks.items()
    )
