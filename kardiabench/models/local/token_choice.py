"""Which token comes next: the likeliest, or a draw that depends on nothing but seed and prompt."""

from __future__ import annotations

import array
from typing import Any
from zlib import crc32

from kardiabench.models.local.jobs import Job, Sampling, Written


class Chooser:
    """Chooses the tokens of one reply. What else is in the batch makes no difference to it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._processors = _processors(job.sampling)
        self._generator = _generator(job) if job.sampling.temperature > 0 else None

    def choose(self, written: Written, logits: Any, likeliest: int) -> None:
        """Add the next token to `written`; `logits` (V,) are the model's, `likeliest` their best.

        Sets the finish reason when the reply ends with it.
        """
        job = self.job
        if job.matcher is not None:
            logits = job.matcher.masked(logits)
        token = self._token(written, logits, likeliest)
        written.ids.append(token)
        if token in job.decoder.eos_ids or (job.matcher is not None and job.matcher.ends(token)):
            written.finish_reason = "stop"
            return
        if job.top:
            written.chances.append(chances(job, logits, token))
        if job.decoder.stopped(written.ids):
            written.finish_reason = "stop"
        elif len(written.ids) >= job.max_tokens:
            written.finish_reason = "length"

    def _token(self, written: Written, logits: Any, likeliest: int) -> int:
        if self._processors is None:
            return likeliest if self.job.matcher is None else int(logits.argmax())
        import torch

        ids = torch.tensor([[*self.job.ids, *written.ids]], device=logits.device)
        scores = self._processors(ids, logits[None].float())[0]
        if self._generator is None:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1).cpu(), 1, generator=self._generator))


def _processors(sampling: Sampling) -> Any:
    """Transformers' own processors in its own order; None where plain greedy decoding is asked."""
    if sampling.temperature <= 0 and sampling.repetition_penalty == 1.0:
        return None
    from transformers import generation as g

    chosen: list[Any] = []
    if sampling.repetition_penalty != 1.0:
        chosen.append(g.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature > 0:
        chosen.append(g.TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k > 0:
            chosen.append(g.TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            chosen.append(g.TopPLogitsWarper(sampling.top_p))
        if sampling.min_p > 0.0:
            chosen.append(g.MinPLogitsWarper(sampling.min_p))
    return g.LogitsProcessorList(chosen)


def _generator(job: Job) -> Any:
    import torch

    generator = torch.Generator()
    if job.sampling.seed is None:
        generator.seed()
        return generator
    prompt = array.array("q", job.ids).tobytes()
    return generator.manual_seed(crc32(prompt, job.sampling.seed & 0xFFFFFFFF))


def chances(job: Job, logits: Any, token: int) -> dict[int, float]:
    """Natural log probabilities of the `job.top` likeliest tokens, and of `token`, by id."""
    values = logits.float().log_softmax(-1)
    best = values.topk(job.top)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {token: float(values[token])} | dict(pairs)
