"""Pair-DPO training: one policy learns to caption and to draw from homologous preference pairs.

Read top to bottom: the loss of a step, the loop, how it resumes; log-probs of policy and reference are `logps`.
Source: HermesFlow (arXiv 2502.12148) section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from hermesflow.config.sections import Objective, Training
from hermesflow.core.errors import Interrupted, NotFiniteError, naming
from hermesflow.core.finite import clip_gradients
from hermesflow.core.progress import Progress
from hermesflow.models.backbone import UnifiedModel
from hermesflow.training.distributed import micro_batches
from hermesflow.training.interruption import Interruption
from hermesflow.training.logps import Logps, PairLogps, ReferenceTable, chosen_tokens
from hermesflow.training.losses import chosen_nll, dpo_logratios, implicit_rewards, pair_dpo_loss
from hermesflow.training.optimizers import AdamW
from hermesflow.training.pairs import HomologousPairs, Row
from hermesflow.training.state import StateFolder
from hermesflow.training.stopping import EarlyStopping

MEND = (
    "The last saved state stays, and the same command goes on from it. If it stops there again (precision is "
    "`{}`), set runtime.precision to `no`, which goes on from it too, or lower training.learning_rate "
    "or beta, which start the training anew."
)


def step_loss(
    policy: Logps,
    reference: Logps,
    *,
    objective: Objective,
    training: Training,
    weights: Tensor | None = None,
    chosen_tokens: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Pair-DPO loss of a batch and what there is to watch while it falls.

    The curves are those of preferences for every objective, `chosen` too: they need the reference, its loss does not.

    Args:
        policy: log-probs under the policy.
        reference: log-probs under the frozen reference.
        objective: what the loss is made of.
        training: hyper-parameters.
        weights: (2, B) of `HomologousPairs.weights`, captions and images; None is 1 for all.
        chosen_tokens: (2, B) scored tokens of the chosen captions and images, which their likelihood is divided by;
            None divides nothing.

    Returns:
        Loss per pair, (B,) nats, and metrics, (B,) each without gradient. Both are weighted: their means over a step
        are means over the pairs of each skill that are in it, of the loss skill by skill.
    """
    caption_tokens, image_tokens = (1, 1) if chosen_tokens is None else chosen_tokens
    caption_weights, image_weights = policy.chosen_caption.new_ones(2, 1) if weights is None else weights
    delta_mmu = dpo_logratios(
        policy.chosen_caption, policy.rejected_caption, reference.chosen_caption, reference.rejected_caption
    )
    delta_t2i = dpo_logratios(
        policy.chosen_image, policy.rejected_image, reference.chosen_image, reference.rejected_image
    )
    loss = pair_dpo_loss(
        delta_mmu,
        delta_t2i,
        beta=training.beta,
        objective=objective,
        caption_weight=training.caption_weight * caption_weights,
        image_weight=training.image_weight * image_weights,
    )
    if nll_weight := 1.0 if objective == "chosen" else training.chosen_nll_weight:
        nll = chosen_nll(
            policy.chosen_caption / caption_tokens,
            policy.chosen_image / image_tokens,
            objective=objective,
            caption_weight=training.caption_weight * caption_weights,
            image_weight=training.image_weight * image_weights,
        )
        loss = loss + nll_weight * nll
    metrics = {"loss": loss.detach()}
    skills = (("t2i", delta_t2i, "image", image_weights), ("mmu", delta_mmu, "caption", caption_weights))
    for skill, delta, kind, weight in skills:
        margin = training.beta * delta.detach()
        metrics[f"loss/{skill}"] = weight * -nn.functional.logsigmoid(margin)
        metrics[f"rewards/margins/{skill}"] = weight * margin
        metrics[f"rewards/accuracies/{skill}"] = weight * (margin > 0)
        for side in ("chosen", "rejected"):
            answer = f"{side}_{kind}"
            rewards = implicit_rewards(getattr(policy, answer), getattr(reference, answer), beta=training.beta)
            metrics[f"rewards/{side}/{skill}"] = weight * rewards
    return loss, metrics


def train_policy(
    model: UnifiedModel,
    pairs: HomologousPairs,
    reference: ReferenceTable,
    *,
    objective: Objective,
    training: Training,
    accelerator: Accelerator,
    state: StateFolder,
    interruption: Interruption,
    log: Callable[[dict[str, float], int], None],
    what: str,
    stopping: EarlyStopping | None = None,
) -> pd.DataFrame:
    """Train `model` in place from the reference's weights; resume from `state` where there is one.

    Args:
        model: a copy of the reference; changed in place.
        pairs: preference pairs of the checkpoint.
        reference: log-probs of `reference_logps`.
        objective: what the loss is made of.
        training: hyper-parameters of the checkpoint.
        accelerator: made by `new_accelerator`.
        state: where full states are kept.
        interruption: asked after every step whether to stop.
        log: called with the metrics and the number of every step, on the main process.
        what: name of the work, for the progress lines.
        stopping: checks of the weights; those of the best check are the model's in the end. None is no check.

    Returns:
        History: one row per step with step, loss, loss/*, rewards/*, lr and grad_norm, and strict_acceptance of steps
        that are checked, where any are. Curves of a skill are means over
        the pairs of that skill in the step, and missing where it has none: it then adds nothing to the loss.

    Raises:
        NotFiniteError: a loss, another metric or a gradient is not; the optimizer has not made the step.
        Interrupted: a signal asked to stop; the state is saved.
    """
    scorer = PairLogps(model, objective).eval()
    policy, optimizer = accelerator.prepare(scorer, new_optimizer(scorer, training))
    rows = pairs.rows(training.steps * training.batch_size)
    per_token = training.chosen_nll_reduction == "token_mean"
    history: list[dict[str, float | None]] = state.resume(accelerator)
    mend = MEND.format(accelerator.mixed_precision)
    progress = Progress(training.steps - len(history), what, "step")

    for step in range(len(history) + 1, training.steps + 1):
        lr = learning_rate(step, training)
        for group in optimizer.param_groups:
            group["lr"] = lr
        step_rows = rows[(step - 1) * training.batch_size : step * training.batch_size]
        grad_norm = math.nan
        while not math.isfinite(grad_norm):  # fp16: again where gradients overflowed, with the loss scaled less
            parts: list[tuple[Sequence[Row], dict[str, Tensor]]] = []
            for batch_rows in micro_batches(rows, step, training, accelerator):
                with accelerator.accumulate(policy), naming(f"{what}, step {step}", mend):
                    batch = pairs.batch(batch_rows, device=accelerator.device)
                    logps = policy(batch)
                    loss, metrics = step_loss(
                        logps,
                        reference.lookup(batch_rows, accelerator.device),
                        objective=objective,
                        training=training,
                        weights=pairs.weights(batch_rows, step_rows, device=accelerator.device),
                        chosen_tokens=chosen_tokens(model, batch) if per_token else None,
                    )
                    accelerator.backward(loss.mean())
                    parts.append((batch_rows, metrics))
                    if accelerator.sync_gradients:
                        means = _finite_means(parts, accelerator)
                        grad_norm = _clipped_norm(policy, training, accelerator)
                    optimizer.step()
                    optimizer.zero_grad()
        absent = [
            s
            for s, n in zip(("mmu", "t2i"), pairs.weights(step_rows, step_rows, device="cpu"), strict=True)
            if not n.any()
        ]
        curves = {name: None if name.endswith(tuple(absent)) else value for name, value in means.items()}
        checked = {"strict_acceptance": stopping.check(step, last=step == training.steps)} if stopping else {}
        history.append({"step": step, **curves, "lr": lr, "grad_norm": grad_norm, **checked})
        if accelerator.is_main_process:
            log({name: value for name, value in history[-1].items() if name != "step" and value is not None}, step)
            progress.what = f"{what}, loss {means['loss']:.4f}"
            progress.advance()
        if stopping and stopping.is_over:
            break
        if step < training.steps:
            stop = interruption.wished_by_any(accelerator)
            if stop or step % training.checkpoint_every == 0:
                state.save(accelerator, history)
            if stop:
                raise Interrupted(f"{what}: stopped after step {step} of {training.steps}; the same command goes on.")
    if stopping:
        stopping.restore()
    return pd.DataFrame(history).astype({"step": int})


def _finite_means(
    parts: Sequence[tuple[Sequence[Row], dict[str, Tensor]]], accelerator: Accelerator
) -> dict[str, float]:
    """Means over the pairs of a step, of all processes.

    Raises:
        NotFiniteError: names the pair.
    """
    means = torch.stack([torch.stack([values.mean() for values in metrics.values()]) for _, metrics in parts])
    values = accelerator.reduce(means.mean(dim=0), reduction="mean").tolist()
    if not all(map(math.isfinite, values)):
        mine = [
            f"{name} of pair `{row[0]}` in pass {row[1]} is {value}"
            for rows, metrics in parts
            for name, column in metrics.items()
            for row, value in zip(rows, column.tolist(), strict=True)
            if not math.isfinite(value)
        ]
        wrong = gather_object(mine) or ["the sum of finite values is infinite"]
        raise NotFiniteError(f"{wrong[0]} ({len(wrong)} such values in the step). No weight was changed.")
    return dict(zip(parts[0][1], values, strict=True))


def _clipped_norm(policy: nn.Module, training: Training, accelerator: Accelerator) -> float:
    """Clip the gradients of a step; the norm, nan where the optimizer will skip the step and scale the loss less.

    Raises:
        NotFiniteError: names the parameter.
    """
    accelerator.unscale_gradients()
    try:
        return clip_gradients(policy, training.max_grad_norm)
    except NotFiniteError:
        if accelerator.scaler is None or accelerator.scaler.get_scale() <= 1:
            raise
        return math.nan


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up, then half a cosine towards 0; a function of the step alone, so there is nothing to resume.

    Args:
        step: from 1.
        training: hyper-parameters.
    """
    warmup, peak = training.warmup_steps, training.learning_rate
    if step <= warmup:
        return peak * step / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / (training.steps - warmup)))


def new_optimizer(model: nn.Module, training: Training) -> AdamW:
    """AdamW of what is trained; biases and norms are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=training.learning_rate)
