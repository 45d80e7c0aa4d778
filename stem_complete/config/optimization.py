"""Optimizer, stages and schedules of its learning rate, and clipping of gradients."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from stem_complete.config.schedules import Place, ScheduleConfig
from stem_complete.config.section import Fraction01, Section


class StageConfig(Section):
    """A part of a run: what holds from its start to the next stage's."""

    start: Place = Field(
        description="first step, as a whole number, or as a fraction of the run like 0.5"
    )
    learning_rate: Annotated[float, Field(ge=0)] = Field(
        1.0, description="in units of optimizer.learning_rate"
    )
    factors: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="on that rate, by pattern of parameter groups, as in {trainer: 2}"
    )
    betas: tuple[Fraction01, Fraction01] | None = Field(
        None, description="None: optimizer.beta1 and beta2"
    )
    frozen: tuple[str, ...] = Field(
        (),
        description="patterns of parameter groups and running statistics that stay as they are; "
        "completion has inner_generator, outer_generator, trainer and running_means",
    )


class OptimizerConfig(Section):
    """An optimizer by name, and the stages of its learning rate."""

    name: Literal[
        "SGD",
        "Adam",
        "AdamW",
        "Adamax",
        "NAdam",
        "RAdam",
        "Adagrad",
        "Adadelta",
        "RMSprop",
        "ASGD",
        "SPAM",
    ] = "Adam"
    options: dict[str, Any] = Field(
        {},
        description="of that class in torch.optim, as in {weight_decay: 0.01}; SPAM's are in "
        "`training.spam`. The average that ASGD keeps is not used: training.weight_average is",
    )
    learning_rate: PositiveFloat = 3e-4
    trainer_learning_rate_ratio: PositiveFloat = 2.0
    beta1: Fraction01 = 0.9
    beta1_end: Fraction01 = 0.5
    beta2: Fraction01 = 0.999
    decay_start: Fraction01 = Field(0.5, description="fraction of the run after which decay starts")
    num_decay_steps: PositiveInt = 8
    stages: tuple[StageConfig, ...] | None = Field(
        None,
        description="what holds when, in place of trainer_learning_rate_ratio, beta1_end, "
        "decay_start, num_decay_steps and training.freeze_mean_norm; None makes the paper's stages "
        "of these",
        min_length=1,
    )
    schedule: ScheduleConfig | None = Field(
        None,
        description="factor on the learning rate of the stages, for every step: constant, step, "
        "linear, cyclic or cosine; it or beta1_schedule replaces the decay of the paper's stages",
    )
    beta1_schedule: ScheduleConfig | None = Field(
        None,
        description="factor on beta1, or on the momentum in options, for every step; for cyclical "
        "momentum as in {kind: cyclic, up: 500, ends: 1, turn: 0.9}",
    )

    @model_validator(mode="after")
    def _beta1_stays_below_1(self) -> Self:
        highest = self.beta1_schedule.highest if self.beta1_schedule else 1.0
        momenta = [self.beta1, float(self.options.get("momentum", 0))]
        momenta += [stage.betas[0] for stage in self.stages or () if stage.betas]
        if highest > 1 and max(momenta) * highest >= 1:
            raise ValueError(
                f"beta1 and momentum must stay below 1, got {max(momenta):g} times {highest:g}, "
                "the highest factor of beta1_schedule"
            )
        return self


class HardExamplesConfig(Section):
    """Examples of high losses are kept and trained on again, see `training.hard_examples`."""

    probability: Fraction01 = Field(
        0.2, description="that a place in the batch takes one that is kept; as many enter"
    )
    kept: PositiveInt = 50


class GradientClippingConfig(Section):
    """What is done to gradients before the optimizer sees them."""

    kind: Literal["none", "value", "norm", "layer", "agc", "zclip", "adagc", "skip"] = Field(
        "none",
        description="value: every element is limited; norm: all together, by one factor; layer: "
        "each tensor; agc: each unit by its weights; zclip: all by their running mean; adagc: each "
        "tensor by its own; skip: whole steps are left out; see `training.gradient_clipping`",
    )
    limit: PositiveFloat | None = Field(
        None, description="None: 1, or what the authors of the method have"
    )
