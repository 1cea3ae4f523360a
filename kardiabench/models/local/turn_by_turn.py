"""The runner for models that cannot share a beginning: `generate`, one prompt at a time.

Recurrent layers, attention of a model's own making, or a template whose prompts share nothing:
transformers' own generation knows them all. One at a time needs no padding, so that nothing can
depend on what else is in a batch.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from kardiabench.models.local.jobs import CancelledRunError, Counts, Job, Written
from kardiabench.models.local.out_of_memory import is_out_of_memory, release_memory
from kardiabench.models.local.token_choice import chances


@dataclass
class TurnByTurnRunner:
    """Runs `model`, any causal language model that transformers can generate with."""

    model: Any
    pad_id: int
    cancelled: Callable[[], bool] = lambda: False
    counts: Counts = field(default_factory=Counts)

    def run(self, jobs: Sequence[Job]) -> list[Written]:
        """One reply a job, in order; raises `CancelledRunError`."""
        import torch

        with torch.inference_mode():
            return [self._run_one(job) for job in jobs]

    def _run_one(self, job: Job) -> Written:
        if self.cancelled():
            raise CancelledRunError
        self.counts.prompt += len(job.ids)
        self.counts.distinct += len(job.ids)
        self.counts.computed += len(job.ids)
        self.counts.batches += 1
        try:
            return self._written(job)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            release_memory()
            return Written(out_of_memory=True)

    def _written(self, job: Job) -> Written:
        import torch

        ids = torch.tensor([job.ids], device=self.model.device)
        if job.sampling.temperature > 0 and job.sampling.seed is not None:
            torch.manual_seed(crc32(array.array("q", job.ids).tobytes(), job.sampling.seed))
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=_config(job, self.pad_id),
            stopping_criteria=_stopping(self, job),
            return_dict_in_generate=True,
            output_logits=bool(job.top),
        )
        if self.cancelled():
            raise CancelledRunError
        written = Written([int(token) for token in out.sequences[0, len(job.ids) :]])
        ended = written.ids[-1:] and written.ids[-1] in job.decoder.eos_ids
        stopped = ended or job.decoder.stopped(written.ids)
        written.finish_reason = "stop" if stopped else "length"
        if job.top:
            said = zip(out.logits, written.ids, strict=True)
            written.chances = [
                chances(job, row[0], token)
                for row, token in said
                if token not in job.decoder.eos_ids
            ]
        self.counts.written += len(written.ids)
        return written


def _config(job: Job, pad_id: int) -> Any:
    """Every choice made explicitly: what is left open is filled from the model's own config."""
    from transformers import GenerationConfig

    sampling = job.sampling
    chosen = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    if sampling.min_p:
        chosen["min_p"] = sampling.min_p
    return GenerationConfig(
        max_new_tokens=job.max_tokens,
        do_sample=sampling.temperature > 0,
        repetition_penalty=sampling.repetition_penalty,
        num_beams=1,
        eos_token_id=sorted(job.decoder.eos_ids),
        pad_token_id=pad_id,
        use_cache=True,
        **(chosen if sampling.temperature > 0 else {}),
    )


def _stopping(runner: TurnByTurnRunner, job: Job) -> Any:
    import torch
    from transformers import StoppingCriteriaList

    start = len(job.ids)

    def stop(ids: Any, _scores: Any, **_: Any) -> Any:
        ended = runner.cancelled() or job.decoder.stopped(ids[0, start:].tolist())
        return torch.tensor([ended], device=ids.device)

    return StoppingCriteriaList([stop])
