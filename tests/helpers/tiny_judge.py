"""A judge of some 100,000 parameters: reads Just-Eval's prompts, writes verdicts.

It is trained on the spot, in seconds, to grade a refusal to answer low and everything else high.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import tasks
from harness.core.schema import Call, Item, Sample
from tasks.just_eval.judging import OWN
from tasks.task import Answered

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CONTEXT = 2048
STEPS = 160
VOCABULARY = 1100  # whole lines of the prompt are tokens, so that it is short
SHRUG = "No idea."
ANSWERS = (
    SHRUG,
    "Good question! Here is what I would do, and why it works: it is made with care.",
    "The wren is small because it hides from the wind. Which one do you like?",
    "I cannot help with that, since it would hurt someone. Talk to somebody you trust.",
)


def answered(count: int, split: str = "gate", seed: int = 0) -> list[Answered]:
    """`count` answers to instructions of the embedded world, as Just-Eval scores them."""
    draw = random.Random(seed)
    items = draw.sample(tasks.load("mini_just_eval").items(split), count)
    return [(item, _sample(item, draw.choice(ANSWERS))) for item in items]


def call(item: Item, sample: Sample) -> Call:
    """What a judge is asked about an answer."""
    return OWN.call(item.prompt, sample.response, item.reference["aspects"])


def _sample(item: Item, text: str) -> Sample:
    return Sample(
        task=item.task, item=item.digest, index=item.index, prompt=item.prompt, response=text
    )


def verdict(item: Item, sample: Sample) -> str:
    """What the tiny judge is to say."""
    score = "1" if sample.response == SHRUG else "4"
    aspects = item.reference["aspects"]
    return json.dumps({aspect: {"reason": "So it is.", "score": score} for aspect in aspects})


def save(folder: Path, seed: int = 0) -> Path:
    """Train the judge and write it as a plain `transformers` folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    examples = answered(400, split="train", seed=seed)
    prompts = [call(*example).prompt for example in examples]
    verdicts = [verdict(*example) for example in examples]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        prompts + verdicts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,  # of 32: vLLM on a CPU knows none smaller
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )
    rows = [
        (
            tokenizer.encode(f"<|user|>{prompt}<|end|><|assistant|>"),
            tokenizer.encode(f"{said}<|end|>"),
        )
        for prompt, said in zip(prompts, verdicts, strict=True)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=STEPS)
    draw = random.Random(seed)
    model.train()
    for _ in range(STEPS):
        batch = draw.sample(rows, 8)
        width = max(len(read) + len(write) for read, write in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        labels = torch.full((len(batch), width), -100)
        for i, (read, write) in enumerate(batch):
            end = len(read) + len(write)
            ids[i, :end] = torch.tensor(read + write)
            labels[i, len(read) : end] = torch.tensor(write)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
