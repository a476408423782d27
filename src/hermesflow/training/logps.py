"""Log-probs of homologous pairs: of the policy in every step, of the frozen reference once beforehand.

Source: HermesFlow (arXiv 2502.12148) section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hermesflow.config.sections import Objective, Training
from hermesflow.core.errors import DataError, naming
from hermesflow.core.finite import check_finite
from hermesflow.core.progress import Progress
from hermesflow.models.backbone import UnifiedModel
from hermesflow.training.distributed import micro_batches
from hermesflow.training.pairs import HomologousPairs, PairBatch, Row


class Logps(NamedTuple):
    """Log-probs of one batch, (B,) float32 nats each: captions given the image, images given the caption."""

    chosen_caption: Tensor
    rejected_caption: Tensor
    chosen_image: Tensor
    rejected_image: Tensor


class PairLogps(nn.Module):
    """A model that scores homologous pairs: chosen and rejected of both skills in one forward call.

    Chosen and rejected share one call to the model, hence one padding and one rounding. Nothing is dropped, neither
    prompts nor activations: noise between the two would drown what tells them apart, so it stays in eval mode.

    Args:
        model: any unified model.
        objective: a skill it does not train is scored without gradient, for the training curves.
    """

    def __init__(self, model: UnifiedModel, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = sorted({type(layer).__name__ for layer in model.decoder_layers})  # FSDP's shards
        self.learns_mmu = objective != "generation"
        self.learns_t2i = objective != "understanding"

    def forward(self, batch: PairBatch) -> Logps:
        """Score a batch of B pairs."""
        size = len(batch.rows)
        owners = torch.arange(size).repeat(2)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns_mmu):
            mmu = self.model.text_logps(
                batch.seen,
                [self.model.caption_prompt] * (2 * size),
                batch.chosen_captions + batch.rejected_captions,
                owners=owners,
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns_t2i):
            images = torch.cat([batch.chosen_images, batch.rejected_images])
            t2i = self.model.image_logps(batch.captions, images, batch.noise, owners=owners)
        return Logps(*(part.clone() for part in (*mmu.split(size), *t2i.split(size))))  # FSDP warns of views


def chosen_tokens(model: UnifiedModel, batch: PairBatch) -> Tensor:
    """Tokens that the log-probs of the chosen captions and images are sums over, (2, B) float32."""
    chosen = batch.chosen_captions
    captions = model.scored_lengths([model.caption_prompt] * len(chosen), chosen)
    images = model.scored_tokens(batch.noise, len(captions))
    return torch.stack([torch.tensor(captions), images.cpu()]).float().to(batch.seen.device)


def reference_logps(
    model: UnifiedModel, pairs: HomologousPairs, *, training: Training, accelerator: Accelerator, what: str
) -> pd.DataFrame:
    """Log-probs of the frozen reference on every row training will meet, in the batches training will use.

    Done once beforehand: training then holds one model and makes one pass per step instead of two. The same batches
    give the same rounding, so that at step 1 policy and reference agree to the last bit.

    Args:
        model: the policy the iteration starts from.
        pairs: preference pairs of the checkpoint.
        training: its steps and batch sizes.
        accelerator: made by `new_accelerator`.
        what: name of the work, for the progress lines.

    Returns:
        Columns id, pass and those of `Logps`; one row per row of training, in its order.

    Raises:
        NotFiniteError: names the pair and the pass.
    """
    scorer = accelerator.prepare_model(PairLogps(model, "pair").eval(), evaluation_mode=True)
    rows = pairs.rows(training.steps * training.batch_size)
    progress = Progress(training.steps, what, "step")
    batches = []
    with torch.no_grad():
        for step in range(1, training.steps + 1):
            for batch_rows in micro_batches(rows, step, training, accelerator):
                logps = torch.stack(scorer(pairs.batch(batch_rows, device=accelerator.device)))
                batches.append(accelerator.gather(logps.T.contiguous()).cpu())
            if accelerator.is_main_process:
                progress.advance()
    logps = torch.cat(batches)
    mend = "Set runtime.precision to `no`; if it is, the parent's weights are damaged: make its model anew."
    with naming(f"{what}, precision {accelerator.mixed_precision}", mend):
        check_finite(logps, lambda row: "a log-prob of pair `{}` in pass {}".format(*rows[row]))
    index = pd.DataFrame(rows, columns=["id", "pass"])
    return index.join(pd.DataFrame(logps.numpy(), columns=list(Logps._fields)))


class ReferenceTable:
    """Log-probs of the reference by id and pass.

    Args:
        table: what `reference_logps` made.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        keys = zip(table["id"], table["pass"], strict=True)
        self._logps: Mapping[Row, tuple[float, ...]] = dict(
            zip(keys, table[list(Logps._fields)].itertuples(index=False, name=None), strict=True)
        )

    def lookup(self, rows: Sequence[Row], device: torch.device) -> Logps:
        """Log-probs of some rows.

        Raises:
            DataError: a row was never scored.
        """
        missing = [row for row in rows if row not in self._logps]
        if missing:
            raise DataError(
                f"reference.parquet has no log-probs of pair `{missing[0][0]}` in pass {missing[0][1]}; "
                "run stage reference again with the steps and batch_size of this training."
            )
        return Logps(*torch.tensor([self._logps[row] for row in rows], dtype=torch.float32, device=device).unbind(1))
