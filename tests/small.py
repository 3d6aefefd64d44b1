"""Sections of a profile, and the arguments of a cell, as small as they can be."""

from lib.study.parameters import Agent, Compute, Environment, Scoring, Training

COMPUTE = Compute(
    device="cpu", workers=1, engine="joblib", address="auto", gpus_per_cell=0.0, archive=None
)
SCORING = Scoring(per_class=2, count=2, temperature=200.0)
TRAINING = Training(
    epochs=1,
    batch_size=30,
    optimizer="sgd",
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=0.0001,
)
STEPS = 4
ENVIRONMENT = Environment(
    network="lenet300",
    width=0.02,
    seed=5,
    steps=STEPS,
    sparsity=(0.5, 0.9),
    alpha=100.0,
    grad_weight=0.2,
    calibration_steps=4,
    action="linear",
    objective="paper",
    trial_steps=100,
)
AGENT = Agent(
    steps=24,
    algorithm="td3",
    learning_rate=0.0002,
    batch_size=4,
    gamma=0.99,
    tau=0.01,
    policy_noise=0.2,
    noise_clip=0.5,
    policy_delay=2,
    exploration_noise=0.1,
    learning_starts=8,
    hidden=(4,),
    reward_scale=1.0,
    checkpoint_every=10,
)
# What `make_environment` asks for, and a network for it: 4,736 weights.
WORLD = {"data": "digits", "environment": ENVIRONMENT, "scoring": SCORING, "device": "cpu"}
PLACE = {"network": "lenet300", "width": 0.02, "seed": 1}
# What `prune_and_train` asks for.
CELL = {
    "data": "digits",
    "network": "lenet5",
    "width": 0.2,
    "seed": 0,
    "sparsity": 0.95,
    "method": "panning",
    "steps": 3,
    "training": TRAINING,
    "scoring": SCORING,
    "device": "cpu",
}
