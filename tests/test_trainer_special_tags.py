"""Span tags as special tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_policy
import torch
from rowdata import gold
from sft_runs import spelt_model

from kardiabench.contracts import LocalOptions
from kardiabench.models.local.loading import load_trainable
from trainer.special_tags import SPAN_TAGS, add_span_tags, tag_ids, trainable_rows


@pytest.mark.parametrize(("tied", "padded"), [(True, 0), (False, 0), (False, 100), (True, 3)])
def test_a_new_tag_begins_as_the_mean_of_its_pieces(
    tmp_path: Path, tied: bool, padded: int
) -> None:
    model, tokens = load_trainable(
        str(spelt_model(tmp_path, tied=tied, padded=padded)), LocalOptions()
    )
    pieces = {tag: tokens(tag).input_ids for tag in SPAN_TAGS}
    weights = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    before = [weight.detach().clone() for weight in weights]
    assert add_span_tags(model, tokens) == 8
    after = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    assert (after[0] is after[1]) == tied
    for old, new in zip(before, after, strict=True):
        assert len(new) == max(len(old), max(tag_ids(tokens)) + 1)
        known = len(tokens) - 8
        assert torch.equal(new[:known], old[:known])
        for tag, number in zip(SPAN_TAGS, tag_ids(tokens), strict=True):
            assert torch.allclose(new[number], old[pieces[tag]].mean(dim=0))
    assert tokens(gold()).input_ids.count(tag_ids(tokens)[0]) == 1
    assert set(SPAN_TAGS) <= set(tokens.all_special_tokens)
    assert add_span_tags(model, tokens) == 0  # they are there now


def test_special_tokens_that_were_there_stay(tmp_path: Path) -> None:
    model, tokens = load_trainable(str(spelt_model(tmp_path, tied=True)), LocalOptions())
    before = set(tokens.all_special_tokens)
    add_span_tags(model, tokens)
    assert set(tokens.all_special_tokens) == before | set(SPAN_TAGS)


def test_a_tag_that_was_a_word_keeps_its_embedding(tmp_path: Path) -> None:
    folder = tiny_policy.build_policy(tmp_path, special_tags=False, seed=0)
    model, tokens = load_trainable(str(folder), LocalOptions())
    before = model.get_input_embeddings().weight.detach().clone()
    assert add_span_tags(model, tokens) == 0
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert set(SPAN_TAGS) <= set(tokens.all_special_tokens)


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_learns_the_rows_of_the_tags(tmp_path: Path, tied: bool) -> None:
    model, tokens = load_trainable(str(spelt_model(tmp_path, tied=tied)), LocalOptions())
    add_span_tags(model, tokens)
    rows = trainable_rows(model, tokens)
    assert set(rows) == {"model.embed_tokens"} | (set() if tied else {"lm_head"})
    assert all(ids == tag_ids(tokens) for ids in rows.values())
