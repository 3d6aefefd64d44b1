"""An agent is the same however it was trained, interrupted or saved, and acts as its learner."""

import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.wrappers import RescaleAction
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

import lib
from lib import agent as agents
from lib.agent import AgentPolicy, load_policy, save_policy, train_agent
from lib.environment import ACTIONS, PanningEnv, rollout
from lib.methods import range_of
from lib.networks.inspection import flatten
from lib.panning import Panning, PanResult, calibrate
from lib.policies import as_policy, constant_policy, staged_policy
from lib.pool import PanningPool
from lib.study import grid
from lib.study.agents import earn
from lib.study.worlds import make_policy

SETTINGS = {
    "steps": 55,
    "learning_rate": 0.01,
    "batch_size": 16,
    "gamma": 0.99,
    "tau": 0.01,
    "policy_noise": 0.2,
    "noise_clip": 0.5,
    "policy_delay": 2,
    "exploration_noise": 0.1,
    "learning_starts": 15,
    "hidden": (8, 6),
    "checkpoint_every": 20,
}
ALGORITHMS: dict[str, type[OffPolicyAlgorithm]] = {"td3": TD3, "sac": SAC, "ddpg": DDPG}
Weights = dict[str, Tensor]


@pytest.fixture
def make_env(mlp, batches) -> Callable[..., PanningEnv]:
    return lambda **more: PanningEnv(mlp, batches, 4, (0.5, 0.9), calibration_steps=3, **more)


def outcome(trained: tuple[AgentPolicy, list[dict]]) -> tuple:
    """All that training gives, comparable with ==."""
    policy, episodes = trained
    weights = {name: tensor.tolist() for name, tensor in policy.actor.state_dict().items()}
    return weights, policy.card, episodes


def train(env: PanningEnv, seed: int = 0, **changes: object) -> tuple:
    return outcome(train_agent(env, seed, progress=False, **SETTINGS | changes))


@pytest.fixture
def watch(monkeypatch) -> Callable[..., tuple]:
    """`watch(env, ...)`: the learner of stable-baselines3, its policy and its episodes."""

    def trained(env: PanningEnv, seed: int = 0, **changes: object) -> tuple:
        settings, made = SETTINGS | changes, []
        kind, real = ALGORITHMS[settings.get("algorithm", "td3")], OffPolicyAlgorithm.learn

        def learn(self: OffPolicyAlgorithm, *args: object, **more: object) -> OffPolicyAlgorithm:
            made.append(self)
            return real(self, *args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(OffPolicyAlgorithm, "learn", learn)
            policy, episodes = train_agent(env, seed, progress=False, **settings)
        assert {type(learner) for learner in made} == {kind}
        return made[-1], policy, episodes

    return trained


@pytest.fixture
def card() -> dict[str, object]:
    return {
        "hidden": [8, 6],
        "extremes": {"loss": [0.5, 2.0], "grad_norm_sq": [0.0, 1.0]},
        "sparsity": [0.5, 0.9],
        "seed": 3,
    }


@pytest.fixture
def policy(card) -> AgentPolicy:
    """An agent that nobody has trained, with opinions."""
    generator = torch.Generator().manual_seed(0)
    sizes = (7, 8, 6, 3)
    weights: Weights = {}
    for layer, (columns, rows) in enumerate(zip(sizes, sizes[1:], strict=False)):
        weights[f"{2 * layer}.weight"] = torch.randn(rows, columns, generator=generator)
        weights[f"{2 * layer}.bias"] = torch.randn(rows, generator=generator)
    return AgentPolicy(weights, card)


def states(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).random((count, 7))


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_twice_gives_every_weight_and_episode_again(make_env, algorithm: str) -> None:
    env = make_env()
    torch.manual_seed(1), np.random.seed(1)
    first = train(env, algorithm=algorithm)
    torch.manual_seed(2), np.random.seed(2)
    assert train(env, algorithm=algorithm) == first  # in an environment that was used before
    assert train(make_env(), seed=1, algorithm=algorithm)[0] != first[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    make_env, tmp_path, monkeypatch, algorithm: str
) -> None:
    expected = train(make_env(), algorithm=algorithm)
    drawn = [row["sparsity"] for row in expected[2]]
    assert len(set(drawn)) == len(drawn)  # a seam is no return to the beginning
    kept = tmp_path / "agent"

    def interrupted(method: tuple[type, str], call: int) -> None:
        """Train until the given call of a method, which raises."""
        owner, name = method
        calls, real = [], getattr(owner, name)

        def stop(*args: object, **settings: object) -> object:
            calls.append(1)
            if len(calls) == call:
                raise KeyboardInterrupt
            return real(*args, **settings)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, stop)
            train(make_env(), algorithm=algorithm, checkpoints=kept)

    def seams() -> list[str]:
        return sorted(path.parent.name for path in kept.glob("*/episodes.json"))

    interrupted((PanningEnv, "step"), 16)
    assert seams() == []  # in the first segment: nothing was kept
    interrupted((ALGORITHMS[algorithm], "save_replay_buffer"), 2)
    assert seams() == ["seam-0001"]  # in the writing of the second seam
    assert (kept / "seam-0002" / "agent.zip").is_file()
    interrupted((PanningEnv, "step"), 30)
    assert seams() == ["seam-0002"]  # in the third segment
    assert train(make_env(), algorithm=algorithm, checkpoints=kept) == expected
    monkeypatch.delattr(PanningEnv, "step")  # a finished training is found finished
    assert train(make_env(), algorithm=algorithm, checkpoints=kept) == expected


def test_segments_cover_the_steps_whatever_their_length(make_env, monkeypatch) -> None:
    steps, real = [], PanningEnv.step
    monkeypatch.setattr(
        PanningEnv, "step", lambda self, action: steps.append(1) or real(self, action)
    )
    for every in (30, 1000):
        steps.clear()
        _, _, episodes = train(make_env(), checkpoint_every=every)
        assert len(steps) == 55
        assert sum(row["length"] for row in episodes) <= 55
        assert [row["step"] for row in episodes] == sorted(row["step"] for row in episodes)


def test_the_settings_reach_td3_and_the_card(make_env, watch) -> None:
    env, noise = make_env(), {"policy_noise": 0.3, "noise_clip": 0.7, "policy_delay": 3}
    td3, policy, episodes = watch(env, seed=4, steps=30, gamma=0.5, tau=0.25, **noise)
    assert (td3.learning_rate, td3.batch_size, td3.gamma, td3.tau) == (0.01, 16, 0.5, 0.25)
    assert (td3.target_policy_noise, td3.target_noise_clip, td3.policy_delay) == (0.3, 0.7, 3)
    assert td3.learning_starts == 15
    assert td3.action_noise._sigma.tolist() == [0.1] * 3
    assert td3.num_timesteps == 30
    assert policy.card["hidden"] == [8, 6]
    assert (policy.card["steps"], policy.card["seed"], policy.card["episode_steps"]) == (30, 4, 4)
    assert (policy.card["alpha"], policy.card["grad_weight"]) == (100, 0.2)
    assert (policy.card["algorithm"], policy.card["action"]) == ("TD3", "linear")
    assert (policy.card["objective"], policy.card["formulation"]) == ("paper", "paper")
    assert policy.extremes == env.extremes
    assert policy.sparsity == (0.5, 0.9)
    for row in episodes:
        assert set(row) == {"step", "sparsity", "return", "length", "greedy"} and not row["greedy"]
        assert 0.5 <= row["sparsity"] <= 0.9
        assert row["return"] < 0


def test_the_settings_reach_sac_and_the_card(make_env, watch) -> None:
    env = make_env(action="logarithmic", objective="trainability", trial_steps=1)
    sac, policy, episodes = watch(env, seed=4, algorithm="sac", steps=30, gamma=0.5, tau=0.25)
    assert (sac.learning_rate, sac.batch_size, sac.gamma, sac.tau) == (0.01, 16, 0.5, 0.25)
    assert (sac.learning_starts, sac.num_timesteps) == (15, 30)
    assert (policy.card["algorithm"], policy.card["action"]) == ("SAC", "logarithmic")
    assert policy.card["objective"] == "trainability"
    assert (policy.card["steps"], policy.card["seed"], policy.card["hidden"]) == (30, 4, [8, 6])
    assert policy.extremes == env.extremes
    assert json.loads(json.dumps(policy.card)) == policy.card
    assert len(episodes) >= 5


def test_ddpg_is_td3_without_its_three_remedies(make_env, watch) -> None:
    settings = {"policy_noise": 0.3, "noise_clip": 0.7, "policy_delay": 3, "exploration_noise": 0.2}
    ddpg, policy, _ = watch(make_env(), algorithm="ddpg", steps=30, gamma=0.5, **settings)
    assert (ddpg.learning_rate, ddpg.batch_size, ddpg.gamma) == (0.01, 16, 0.5)
    assert (ddpg.policy_delay, ddpg.target_noise_clip, ddpg.critic.n_critics) == (1, 0, 1)
    assert ddpg.action_noise._sigma.tolist() == [0.2] * 3
    assert (policy.card["algorithm"], policy.card["hidden"]) == ("DDPG", [8, 6])


def test_an_unknown_algorithm_is_refused_by_name(make_env, tmp_path) -> None:
    with pytest.raises(
        ValueError, match="algorithm must be one of 'td3', 'sac', 'ddpg', got 'ppo'"
    ):
        train(make_env(), algorithm="ppo", checkpoints=tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []


def test_the_algorithms_learn_different_policies(make_env) -> None:
    found = [train(make_env(), algorithm=algorithm)[0] for algorithm in ALGORITHMS]
    shapes = [{name: np.shape(w) for name, w in weights.items()} for weights in found]
    assert shapes == shapes[:1] * len(found)
    for one, other in itertools.combinations(found, 2):
        assert one != other


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("action", ACTIONS)
def test_an_agent_chooses_what_its_learner_chooses_without_noise(
    make_env, watch, algorithm: str, action: str
) -> None:
    env = make_env(action=action)
    learner, policy, _ = watch(env, algorithm=algorithm)
    for state in states():
        chosen, _ = learner.predict(state, deterministic=True)
        assert policy(state) == pytest.approx(ACTIONS[action](chosen.astype(float)), abs=1e-6)
        assert policy(state) == policy(state)
        env.reset(options={"sparsity": 0.9})
        env.step(chosen)  # the environment understands it so, too
        row = env.panning.history.iloc[-1]
        assert policy(state) == pytest.approx([row.p_synflow, row.p_snip, row.p_grasp], abs=1e-6)
    assert len({policy(state) for state in states()}) == 20


# --- the scale of the reward ---------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_reward_is_scaled_for_the_learner_and_not_in_the_log(
    make_env, watch, algorithm: str
) -> None:
    """While all actions are random, so that a learner's are the same."""
    random = {"algorithm": algorithm, "learning_starts": 100, "steps": 24, "checkpoint_every": 24}
    plain, _, episodes = watch(make_env(), **random)
    scaled, _, episodes_too = watch(make_env(), **random, reward_scale=0.25)
    rewards, smaller = (learner.replay_buffer.rewards[:, 0] for learner in (plain, scaled))
    assert len(rewards) == 24 and (rewards < 0).all()
    assert smaller.tolist() == (0.25 * rewards).tolist()
    assert episodes == episodes_too
    assert sum(row["length"] for row in episodes) <= 24
    first = 0
    for row in episodes:
        last = first + row["length"]
        assert row["return"] == pytest.approx(rewards[first:last].sum(), rel=1e-5)
        first = last


def test_the_scale_of_the_reward_is_learned_from(make_env) -> None:
    one, other = train(make_env()), train(make_env(), reward_scale=0.01)
    assert one[0] != other[0]


def test_the_log_holds_what_the_environment_paid_whatever_is_learned_from(
    make_env, watch, monkeypatch
) -> None:
    """Also where a learned policy acts; an episode that a seam cuts short is not in it."""
    running, paid, reset, step = [], [], PanningEnv.reset, PanningEnv.step

    def begin(self: PanningEnv, **more: object) -> tuple:
        running.clear()
        return reset(self, **more)

    def pay(self: PanningEnv, action: np.ndarray) -> tuple:
        answer = step(self, action)
        running.append(answer[1])
        if answer[2]:
            paid.append(sum(running))
        return answer

    monkeypatch.setattr(PanningEnv, "reset", begin)
    monkeypatch.setattr(PanningEnv, "step", pay)
    _, _, episodes = watch(make_env(), reward_scale=0.01)
    assert [row["return"] for row in episodes] == pytest.approx(paid, rel=1e-5)
    assert len(paid) > 5


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("agent", ["agent.json", "agent.pt"]),
        ("deep/agent", ["agent.json", "agent.pt"]),
        ("lenet300-0.99", ["lenet300-0.99.json", "lenet300-0.99.pt"]),
    ],
)
def test_a_policy_read_back_acts_the_same(policy, tmp_path, name: str, files: list[str]) -> None:
    path = tmp_path / name
    save_policy(policy, path)
    assert sorted(file.name for file in path.parent.iterdir()) == files
    for written in (path, str(path), f"{path}.pt", f"{path}.json"):
        read = load_policy(written)
        assert (read.card, read.extremes, read.sparsity) == (
            policy.card,
            policy.extremes,
            policy.sparsity,
        )
        assert [read(state) for state in states()] == [policy(state) for state in states()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_trained_agent_is_saved_and_loaded_whole(
    make_env, tmp_path, algorithm: str, action: str
) -> None:
    settings = SETTINGS | {"algorithm": algorithm, "steps": 20}
    policy, _ = train_agent(make_env(action=action), progress=False, **settings)
    save_policy(policy, tmp_path / "agent")
    read = load_policy(tmp_path / "agent")
    assert read.card == policy.card
    assert [read(state) for state in states()] == [policy(state) for state in states()]


def test_a_saved_policy_is_weights_and_a_card_without_code(policy, tmp_path) -> None:
    save_policy(policy, tmp_path / "agent")
    weights = torch.load(tmp_path / "agent.pt", weights_only=True)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {
        **{"0.weight": (8, 7), "0.bias": (8,)},
        **{"2.weight": (6, 8), "2.bias": (6,)},
        **{"4.weight": (3, 6), "4.bias": (3,)},
    }
    assert json.loads((tmp_path / "agent.json").read_text()) == policy.card


def test_saving_twice_gives_the_same_bytes(policy, tmp_path) -> None:
    for name in ("first", "second"):
        save_policy(policy, tmp_path / name / "agent")
    for file in ("agent.pt", "agent.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_failure_while_saving_leaves_the_old_policy_and_no_part_of_the_new(
    policy, tmp_path, monkeypatch
) -> None:
    save_policy(policy, tmp_path / "agent")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_: object, file) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(agents.torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_policy(policy, tmp_path / "agent")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Evil:
    def __reduce__(self) -> tuple:
        return (Path("harm").touch, ())


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("agent.pt", lambda path: path.write_bytes(path.read_bytes()[:200])),
        ("agent.pt", lambda path: path.write_bytes(b"")),
        ("agent.pt", lambda path: torch.save([1, 2], path)),
        ("agent.pt", lambda path: torch.save({"0.weight": Evil()}, path)),
        ("agent.json", lambda path: path.write_text(path.read_text()[:20])),
        ("agent.json", lambda path: path.write_text("[]")),
        ("agent.json", lambda path: path.write_text('{"hidden": [8, 6]}')),
        ("agent.json", lambda path: path.write_text(path.read_text().replace("8,", "9,"))),
        ("agent.json", lambda path: path.write_text(path.read_text().replace("6\n", "6, 6\n"))),
        ("agent.json", lambda path: path.write_text('{"action": "cubic",' + path.read_text()[1:])),
        ("agent.json", lambda path: path.write_text('{"formulation": 1,' + path.read_text()[1:])),
    ],
    ids=[
        *("half", "empty", "a list", "code", "half card", "no card", "poor card", "wide", "deep"),
        *("action", "formulation"),
    ],
)
def test_a_damaged_policy_is_refused_by_name(policy, workspace, file: str, spoil) -> None:
    save_policy(policy, "agent")
    spoil(Path(file))
    with pytest.raises(ValueError, match="path: agent holds no usable policy: "):
        load_policy("agent")
    assert not Path("harm").exists()


@pytest.mark.parametrize("missing", ["agent.pt", "agent.json"])
def test_a_missing_file_is_named(policy, workspace, missing: str) -> None:
    save_policy(policy, "agent")
    Path(missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"path: no policy at {missing}"):
        load_policy("agent")


# --- use -----------------------------------------------------------------------------------------


def test_the_card_says_what_an_action_means_and_is_linear_where_it_says_nothing(policy) -> None:
    weights, card = policy.actor.state_dict(), policy.card
    assert "action" not in card
    linear, logarithmic = (AgentPolicy(weights, card | {"action": name}) for name in ACTIONS)
    for state in states():
        assert policy(state) == linear(state)
        # p = (a + 1) / 2 becomes 10 ** (3 (a - 1) / 2): from a thousandth to 1.
        assert logarithmic(state) == pytest.approx([10 ** (3 * (p - 1)) for p in linear(state)])
        assert all(0.001 <= p <= 1 for p in logarithmic(state))


def test_a_policy_goes_through_plain_values_and_back(policy, tmp_path) -> None:
    logarithmic = AgentPolicy(policy.actor.state_dict(), policy.card | {"action": "logarithmic"})
    for agent in (policy, logarithmic):
        torch.save(agent.plain(), tmp_path / "cell.pt")  # as a grid keeps it, without code
        for plain in (agent.plain(), torch.load(tmp_path / "cell.pt", weights_only=True)):
            read = make_policy(plain)
            assert (read.card, read.extremes, read.sparsity) == (
                agent.card,
                agent.extremes,
                agent.sparsity,
            )
            assert [read(state) for state in states()] == [agent(state) for state in states()]
    assert policy(states()[0]) != logarithmic(states()[0])


def test_plain_values_are_the_parameters_of_a_cell(policy) -> None:
    """The same policy has the same name in a grid, another one another."""

    def name(agent: AgentPolicy) -> str:
        return grid.digest(make_policy, {"policy": agent.plain()})

    weights, card = policy.actor.state_dict(), policy.card
    assert name(policy) == name(AgentPolicy(weights, card))
    nudged = {key: weight + 1e-6 for key, weight in weights.items()}
    others = [AgentPolicy(nudged, card), AgentPolicy(weights, card | {"action": "logarithmic"})]
    assert len({name(policy), *map(name, others)}) == 3


@pytest.mark.parametrize("action", ACTIONS)
def test_a_roll_out_takes_an_agents_weights_as_they_are(policy, make_env, action: str) -> None:
    """They are weights p already, and no actions to be mapped a second time."""
    agent = AgentPolicy(policy.actor.state_dict(), policy.card | {"action": action})
    env, chosen = make_env(action=action), []
    rows = rollout(env, lambda state: chosen.append(agent(state)) or chosen[-1], 0.9)
    assert [(row["p_synflow"], row["p_snip"], row["p_grasp"]) for row in rows] == chosen
    columns = ["p_synflow", "p_snip", "p_grasp"]
    assert [tuple(row) for row in env.panning.history[columns].to_numpy()] == chosen


def test_a_loaded_agent_prunes_a_network(policy, mlp, batches, tmp_path) -> None:
    save_policy(policy, tmp_path / "agent")

    def pruned(agent: AgentPolicy) -> PanResult:
        return lib.pan(mlp, batches, sparsity=0.9, steps=5, policy=agent)

    result, again = pruned(lib.load_policy(tmp_path / "agent")), pruned(policy)
    assert int(flatten(result.masks).sum()) == 35
    assert torch.equal(flatten(result.masks), flatten(again.masks))
    columns = result.history[["p_synflow", "p_snip", "p_grasp"]]
    assert columns.nunique().min() > 1  # it looks at its state


def test_an_agent_sees_its_whole_state(policy, mlp, batches) -> None:
    seen = []
    watched = AgentPolicy(policy.actor.state_dict(), policy.card)
    watched.actor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    lib.pan(mlp, batches, sparsity=0.9, steps=5, policy=watched)
    assert len(seen) == 5
    assert torch.stack(seen).isfinite().all()
    assert (torch.stack(seen)[1:, :4] > 0).any()


# --- a model of stable-baselines3 as it is -------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_model_of_stable_baselines3_is_a_policy(
    make_env, mlp, batches, algorithm: str, action: str
) -> None:
    """Its actions are read as its environment reads them, and 𝒩 is measured over its range."""
    env = make_env(action=action)
    model = ALGORITHMS[algorithm]("MlpPolicy", env, seed=1, learning_starts=5)
    model.learn(10)
    found = lib.pan(mlp, batches, 0.8, 4, model)
    env.extremes = range_of(mlp, batches, (0.5, 0.9), 4)
    state, terminated = env.reset(options={"sparsity": 0.8})[0], False
    while not terminated:
        state, _, terminated, _, _ = env.step(model.predict(state, deterministic=True)[0])
    assert found.masks == env.panning.masks


def test_a_model_of_another_task_is_refused(mlp, batches) -> None:
    model = TD3("MlpPolicy", "Pendulum-v1")
    with pytest.raises(ValueError, match=r"policy: a model of .* \[\(3,\), \(1,\)\]"):
        lib.pan(mlp, batches, 0.8, 4, model)


def test_an_agent_can_be_pickled(make_env) -> None:
    policy, _ = train_agent(make_env(), progress=False, **SETTINGS)
    other = pickle.loads(pickle.dumps(policy))
    state = np.full(7, 0.3)
    assert other(state) == policy(state) and other.card == policy.card


@pytest.mark.parametrize("kind", [TD3, SAC, DDPG, PPO])
def test_a_model_that_is_loaded_without_its_environment_acts_as_before(
    kind, make_env, mlp, batches, tmp_path
) -> None:
    """Its actions keep their meaning: the spaces are saved with it, the environment is not."""
    settings = {"n_steps": 4, "batch_size": 4} if kind is PPO else {}
    model = kind("MlpPolicy", make_env(action="logarithmic"), seed=0, device="cpu", **settings)
    model.save(tmp_path / "model.zip")
    loaded = kind.load(tmp_path / "model.zip", device="cpu")
    assert loaded.get_env() is None
    found, expected = (lib.pan(mlp, batches, 0.7, 4, policy=each) for each in (loaded, model))
    assert found.history.equals(expected.history)
    assert as_policy(loaded).sparsity == as_policy(model).sparsity == (0.5, 0.9)
    assert as_policy(loaded).choose.action == "logarithmic"


def test_a_model_that_saw_normalised_states_sees_them_again(make_env) -> None:
    env = VecNormalize(DummyVecEnv([make_env]))
    model = TD3("MlpPolicy", env, seed=0, device="cpu")
    env.obs_rms.mean += 0.3
    state = np.linspace(0, 1, 7)
    action, _ = model.predict(env.normalize_obs(state), deterministic=True)
    np.testing.assert_allclose(as_policy(model)(state), (action + 1) / 2, rtol=1e-6)


def test_a_model_whose_actions_were_scaled_is_refused(make_env) -> None:
    env = RescaleAction(make_env(), np.float32(0), np.float32(1))
    with pytest.raises(ValueError, match=r"actions in \[-1, 1\], .* in \[0.0, 1.0\]"):
        as_policy(TD3("MlpPolicy", env, device="cpu"))


# --- whose state an agent reads ------------------------------------------------------------------

# Wherever a policy meets the state: who shows that of the paper, and who that of its environment.
PAPERS = {
    "pan": lambda policy, mlp, batches: lib.pan(mlp, batches, 0.8, 4, policy),
    "a candidate of pan": lambda policy, mlp, batches: lib.pan(
        mlp, batches, 0.8, 4, select=[{"policy": policy}]
    ),
    "the loop": lambda policy, mlp, batches: Panning(mlp, batches, 0.8, 4).run(policy),
}
ENVIRONMENTS = {"rollout": rollout, "earn": earn}


@pytest.fixture(params=["agent", "agent from plain values", "stable-baselines3"])
def authors(request, make_env, tmp_path) -> Callable:
    """One that was trained in the authors' process, saved and loaded."""
    env = make_env(formulation="authors")
    if request.param == "stable-baselines3":
        model = SAC("MlpPolicy", env, seed=0, device="cpu", learning_starts=5)
        model.learn(8).save(tmp_path / "model.zip")
        return SAC.load(tmp_path / "model.zip", device="cpu")
    policy, _ = train_agent(env, progress=False, **SETTINGS | {"steps": 20})
    assert policy.card["formulation"] == "authors"
    if request.param == "agent from plain values":
        return make_policy(policy.plain())
    save_policy(policy, tmp_path / "agent")
    return load_policy(tmp_path / "agent")


REFUSED = (
    r"policy: it reads the state of formulation='authors', .* of 'paper'; play it in "
    r"PanningEnv\(..., formulation='authors'\), as with lib.environment.rollout"
)


@pytest.mark.parametrize("place", PAPERS)
def test_an_agent_of_the_authors_process_is_refused_where_the_state_is_the_papers(
    authors, mlp, batches, place: str
) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        PAPERS[place](authors, mlp, batches)


@pytest.mark.parametrize("play", ENVIRONMENTS)
def test_an_agent_of_the_authors_process_is_played_in_that_alone(
    authors, make_env, play: str
) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        ENVIRONMENTS[play](make_env(), authors, 0.8)
    assert ENVIRONMENTS[play](make_env(formulation="authors"), authors, 0.8)


def test_a_roll_out_shows_an_agent_of_the_authors_process_their_state(authors, make_env) -> None:
    env, other = (make_env(formulation="authors") for _ in range(2))
    rows = rollout(env, authors, 0.8)
    state, _ = other.reset(options={"sparsity": 0.8})
    for row in rows:
        p = as_policy(authors, "authors")(state)
        assert [row["p_synflow"], row["p_snip"], row["p_grasp"]] == list(p)
        state, value, *_ = other.apply(p)
        assert row["reward"] == value
    assert len(rows) == 4


def test_a_card_that_does_not_say_whose_state_is_read_means_the_papers(policy, make_env) -> None:
    assert "formulation" not in policy.card and policy.formulation == "paper"
    assert rollout(make_env(), policy, 0.8)
    with pytest.raises(ValueError, match=r"state of formulation='paper', .* of 'authors'; play"):
        rollout(make_env(formulation="authors"), policy, 0.8)


@pytest.mark.parametrize("formulation", ["paper", "authors"])
def test_a_policy_that_reads_no_state_is_played_in_any(make_env, formulation: str) -> None:
    env = make_env(formulation=formulation)
    for policy in (constant_policy((1, 0, 0)), lambda state: (0.5, 0.5, 0)):
        assert rollout(env, policy, 0.8)


def test_the_hand_made_policy_looks_for_the_next_target_which_the_authors_state_lacks(
    make_env,
) -> None:
    with pytest.raises(ValueError, match="policy: it reads the state of formulation='paper'"):
        rollout(make_env(formulation="authors"), staged_policy(), 0.8)


# --- watched while it learns ---------------------------------------------------------------------


def test_greedy_evaluations_are_roll_outs_and_change_nothing(make_env, watch) -> None:
    plain = outcome(train_agent(make_env(), 3, progress=False, **SETTINGS))
    other, targets = make_env(alpha=50.0), (0.6, 0.9)
    _, policy, rows = watch(make_env(), seed=3, evaluation=other, evaluate_at=targets)
    assert outcome((policy, [row for row in rows if not row["greedy"]])) == plain
    _, policy, rows = watch(
        make_env(), seed=3, evaluation=other, evaluate_at=targets, learning_starts=99
    )
    greedy = [row for row in rows if row["greedy"]]
    steps = [(row["step"], row["sparsity"]) for row in greedy]
    assert steps == [(step, rho) for step in (20, 40, 55) for rho in targets]
    for row in greedy:  # of an agent that does not learn, so that the finished one is the same
        found = rollout(other, policy, row["sparsity"])
        assert row["return"] == pytest.approx(sum(one["reward"] for one in found), abs=1e-5)
        assert row["length"] == len(found)


def test_an_interrupted_agent_is_watched_as_one_that_was_not(
    make_env, tmp_path, monkeypatch
) -> None:
    more = {"progress": False, "evaluation": make_env(), "evaluate_at": (0.7,), **SETTINGS}
    whole = outcome(train_agent(make_env(), 1, **more))
    with monkeypatch.context() as patch:
        real = TD3.learn

        def learn(self: TD3, *args: object, **settings: object) -> TD3:
            if self.num_timesteps >= 40:
                raise KeyboardInterrupt
            return real(self, *args, **settings)

        patch.setattr(TD3, "learn", learn)
        with pytest.raises(KeyboardInterrupt):
            train_agent(make_env(), 1, checkpoints=tmp_path, **more)
    assert outcome(train_agent(make_env(), 1, checkpoints=tmp_path, **more)) == whole


@pytest.mark.parametrize("half", [{"evaluate_at": (0.7,)}, {"evaluation": True}])
def test_an_evaluation_has_an_environment_and_targets(make_env, half: dict) -> None:
    half = {k: make_env() if v is True else v for k, v in half.items()}
    with pytest.raises(ValueError, match="evaluation, evaluate_at: give"):
        train_agent(make_env(), **half)


# --- played where it was trained -----------------------------------------------------------------

PRODUCT = {"fusion": "product", "gradients": "masked", "reactivate": 0.5, "schedule": "linear"}


@pytest.mark.parametrize("kind", ["agent", "model"])
def test_an_agent_prunes_with_the_settings_it_was_trained_with(
    make_env, watch, mlp, batches, kind: str
) -> None:
    env = make_env(**PRODUCT, temperature=70.0)
    td3, agent, _ = watch(env, steps=30)
    assert agent.card["settings"] == PRODUCT
    assert agent.trained_in == {"settings": PRODUCT, "steps": 4}
    policy = agent if kind == "agent" else td3
    expected = lib.pan(mlp, batches, 0.8, 4, policy=policy, method="rlpanning", **PRODUCT)
    for method in ("panning", "rlpanning"):
        found = lib.pan(mlp, batches, 0.8, policy=policy, method=method)
        assert torch.equal(found.masks.flat, expected.masks.flat)
        assert len(found.history) == 4
    told = lib.pan(mlp, batches, 0.8, 6, policy=policy, fusion="sum")
    assert len(told.history) == 6
    as_told = lib.pan(mlp, batches, 0.8, 6, policy=policy, **PRODUCT | {"fusion": "sum"})
    assert torch.equal(told.masks.flat, as_told.masks.flat)


def test_an_agent_of_many_networks_is_one_that_any_network_can_use(make_env, mlp, batches) -> None:
    pool = PanningPool([make_env(), make_env(alpha=100.0)])
    policy, episodes = train_agent(pool, 2, progress=False, **SETTINGS)
    assert outcome((policy, episodes)) == outcome(train_agent(pool, 2, progress=False, **SETTINGS))
    assert policy.card["extremes"] == json.loads(json.dumps(pool.card()["extremes"]))
    assert lib.pan(mlp, batches, 0.8, policy=policy).sparsity == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("method", ["iterative_fused", "panning_masked", "panning_product"])
def test_a_method_that_is_named_is_what_its_name_says(
    make_env, watch, mlp, batches, method
) -> None:
    """Whether the agent's environment was told of its settings or had them by default."""
    own = {"reactivate": True, "gradients": "dense", "fusion": "sum", "score": "normalised"}
    _, told, _ = watch(make_env(**own), steps=30)
    _, untold, _ = watch(make_env(), steps=30)
    chosen = lib.METHODS[method]
    for agent in (told, untold):
        found = lib.pan(mlp, batches, 0.8, 6, policy=agent, method=method)
        process = Panning(
            mlp, batches, 0.8, 6, reactivate=chosen.reactivate, gradients=chosen.gradients,
            score=chosen.score, fusion=chosen.fusion,
        )  # fmt: skip
        expected = process.run(agent, range_of_process(process, agent))
        assert torch.equal(found.masks.flat, expected.masks.flat)


def range_of_process(process: Panning, agent: AgentPolicy) -> object:
    return calibrate(process, agent.sparsity)


def test_what_a_policy_calls_its_own_things_is_its_own_business(mlp, batches) -> None:
    class Counting:
        """A policy that counts its steps, and has settings."""

        steps, settings = 0, {"verbose": True}

        def __call__(self, state: np.ndarray) -> tuple[float, float, float]:
            self.steps += 1
            return 1.0, 0.5, 0.0

    policy = Counting()
    found = lib.pan(mlp, batches, 0.8, policy=policy)
    assert policy.steps == len(found.history) == 100
    plain = lib.pan(mlp, batches, 0.8, policy=constant_policy((1, 0.5, 0)))
    assert torch.equal(found.masks.flat, plain.masks.flat)
