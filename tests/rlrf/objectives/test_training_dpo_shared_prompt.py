"""Training is stock TRL's, number by number, whatever it costs."""

from __future__ import annotations

import pytest
import torch
from helpers import architectures
from helpers.jobs import job, rows
from test_training_dpo import fit, pair

from harness.engines.model_folder import Checkpoint
from rlrf.objectives import base, shared_prompt
from rlrf.objectives.dpo import tokenize
from rlrf.training_config import Adapter, Training

RAGGED = [
    pair(
        i,
        prompt="<|user|>" + "What is it? " * (1 + i % 3) + "<|end|><|assistant|>",
        chosen="The answer. " * (1 + i % 4),
        rejected="No " * (7 * i % 5),  # one of them the end alone
    )
    for i in range(12)
]


def stock(start, *, pairs=RAGGED, adapter=None, seed=0, **settings):
    """Metrics of every step, by TRL as it comes."""
    import datasets
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

    settings = {"learning_rate": 1e-3, "batch_size": 4, "max_length": 100} | settings
    config = Training(**settings)
    asked = job(start, config=config, adapter=adapter, seed=seed)
    tokenizer = base.load_policy_tokenizer(start)
    model, lora = base.load_model(asked)
    with base.trainer_arguments(asked) as arguments:
        trainer = Trainer(
            model=model,
            args=DPOConfig(
                **arguments,
                beta=config.beta,
                loss_type=list(config.loss),
                loss_weights=list(config.loss.values()),
                max_length=config.max_length,
                precompute_ref_log_probs=True,
            ),
            train_dataset=datasets.Dataset.from_list(tokenize(pairs, tokenizer, config.max_length)),
            processing_class=tokenizer,
            peft_config=lora,
        )
        base.run_trainer(trainer, asked)
    return [one for one in trainer.state.log_history if "loss" in one]


def check_same(ours, theirs, *, rel=1e-5):
    assert len(ours) == len(theirs) > 2
    for our, their in zip(ours, theirs, strict=True):
        assert our["loss"] == pytest.approx(their["loss"], rel=rel, abs=1e-6)
        assert our["grad_norm"] == pytest.approx(their["grad_norm"], rel=10 * rel)
        assert our["logp_chosen"] == pytest.approx(their["logps/chosen"], rel=rel)
        assert our["logp_rejected"] == pytest.approx(their["logps/rejected"], rel=rel)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation": 2},
        {"gradient_checkpointing": True},
        {"adapter": Adapter(r=4)},
        {"loss": {"sigmoid": 0.5, "sft": 0.2, "ipo": 0.3}},
        {"max_length": 30},  # some rejected responses are cut
        {"batch_size": 5},  # the last batch is smaller
    ],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_every_step_is_that_of_stock_trl(start, tmp_path, settings):
    fit(start, tmp_path, pairs=RAGGED, epochs=2, **{"batch_size": 4} | settings)
    check_same(rows(tmp_path), stock(start, epochs=2, **settings))


@pytest.mark.slow
def test_in_bfloat16_it_is_so_within_its_precision(start, tmp_path):
    settings = {"bf16": True, "batch_size": 4, "epochs": 2}
    fit(start, tmp_path, pairs=RAGGED, **settings)
    check_same(rows(tmp_path), stock(start, **settings), rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", architectures.FAMILIES)
def test_architectures_that_do_not_suit_are_read_as_trl_reads_them(tmp_path, family):
    start = Checkpoint("M0", architectures.save(tmp_path / family, family, spread=0.2))
    pairs = [one.model_copy(update={"prompt": "What is 3 plus 4? " * 3}) for one in RAGGED]
    fit(start, tmp_path / "out", pairs=pairs, batch_size=4)
    check_same(rows(tmp_path / "out"), stock(start, pairs=pairs))
    model, _ = base.load_model(job(start))
    assert shared_prompt.is_supported(model) == (family in {"llama", "qwen3"})


def texts(model, seed):
    """Padded chosen and rejected texts: ids, mask and labels, with empty prompts and responses."""
    draw = torch.Generator().manual_seed(seed)
    sizes = [(9, 5, 7), (1, 8, 2), (0, 3, 4), (30, 1, 0), (12, 12, 12)]
    ids, mask, labels = torch.zeros(3, 10, 42, dtype=torch.long)
    labels -= 100
    for i, (prompt, chosen, rejected) in enumerate(sizes):
        start = torch.randint(model.config.vocab_size, (prompt,), generator=draw)
        for row, size in ((i, chosen), (i + 5, rejected)):
            end = torch.randint(model.config.vocab_size, (size,), generator=draw)
            ids[row, : prompt + size] = torch.cat([start, end])
            mask[row, : prompt + size] = 1
            labels[row, prompt : prompt + size] = end
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_log_probabilities_and_gradients_are_equal_parameter_by_parameter(tmp_path, family):
    from trl.trainer.utils import add_fused_lm_head

    start = Checkpoint("M0", architectures.save(tmp_path, family, spread=0.2))
    found = []
    for shared in (False, True):
        model, _ = base.load_model(job(start))
        add_fused_lm_head(model)
        if shared:
            shared_prompt.prepare(model)
        read = shared_prompt.reader(model) if shared else model
        logps = read(**texts(model, 0), fused_lm_head=True).log_probs
        (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
        found.append([logps.detach(), *(one.grad for one in model.parameters())])
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.slow
def test_what_is_not_measured_is_not_reported(start, tmp_path, monkeypatch):
    reported = []
    watch = base.metrics_callback

    def watched(*args):
        made = watch(*args)
        log = made.on_log

        def on_log(*told, logs, **more):
            reported.append(set(logs))
            return log(*told, logs=logs, **more)

        made.on_log = on_log
        return made

    monkeypatch.setattr(base, "metrics_callback", watched)
    fit(start, tmp_path)
    assert {"rewards/margins", "logps/chosen"} <= reported[0]
    assert not reported[0] & set(shared_prompt.UNMEASURED)


def test_the_saved_model_does_not_know_of_it(start, tmp_path):
    fit(start, tmp_path)
    saved = (tmp_path / "model" / "config.json").read_text()
    assert shared_prompt.ATTENTION not in saved
    assert saved == (start.model / "config.json").read_text()
