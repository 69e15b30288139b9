"""Make the seed policy M0: one command, one seed, about half an hour on two cores.

    python bench/seed_policy.py --out rlrf/quickstart/m0

A small Llama is trained from random weights on `seed_policy_corpus.documents`: on whole pages, and
on the last message of conversations. Its tokenizer has one token per word of the corpus, spells out
all other text in bytes, and keeps digits apart.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seed_policy_corpus import Document, documents

from harness.core.log import say
from harness.engines.model_folder import model_digest

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]

HIDDEN, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 160, 4, 5, 448, 512


def make_tokenizer(seed: int, sampled: int = 60_000) -> Any:
    """A word-level Unigram tokenizer with byte fallback, from the words of the corpus."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="never"),
            pre_tokenizers.Split(Regex(r"[0-9]|[^\w▁]|▁(?=[0-9])"), behavior="isolated"),
        ]
    )
    counts: Counter[str] = Counter()
    for document in itertools.islice(documents(seed), sampled):
        for message in document.messages:
            counts.update(word for word, _ in split.pre_tokenize_str(message.content))
    total = sum(counts.values())
    letters = sorted({letter for word in counts for letter in word})
    words = sorted(word for word in counts if len(word) > 1)
    vocabulary = [(token, 0.0) for token in SPECIAL]
    vocabulary += [(f"<0x{byte:02X}>", -30.0) for byte in range(256)]
    vocabulary += [
        (letter, math.log(counts[letter] / total) if letter in counts else -20.0)
        for letter in letters
    ]
    vocabulary += [(word, math.log(counts[word] / total)) for word in words]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def encode(document: Document, tokenizer: Any) -> tuple[list[int], int]:
    """Token ids, and the position from which they are learned."""
    if document.is_page:
        ids = tokenizer.encode(document.messages[0].content, add_special_tokens=False)
        return [*ids, tokenizer.eos_token_id], 1
    turns = [message.model_dump() for message in document.messages]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    asked = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(whole, add_special_tokens=False)
    return ids, len(tokenizer.encode(asked, add_special_tokens=False))


def batches(seed: int, tokenizer: Any, size: int) -> Iterator[tuple[Any, Any]]:
    """(input ids, labels) of `size` documents, rows of like length together."""
    import torch

    pool_size = 16
    stream = documents(seed)
    rng = random.Random(seed)
    while True:
        pool = [encode(d, tokenizer) for d in itertools.islice(stream, size * pool_size)]
        pool.sort(key=lambda row: len(row[0]))
        chunks = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            longest = max(len(ids) for ids, _ in chunk)
            inputs = torch.full((len(chunk), longest), tokenizer.pad_token_id)
            labels = torch.full((len(chunk), longest), -100)
            for row, (ids, start) in enumerate(chunk):
                inputs[row, : len(ids)] = torch.tensor(ids)
                labels[row, start : len(ids)] = torch.tensor(ids[start:])
            yield inputs, labels


def train(out: Path, steps: int, batch_size: int, learning_rate: float, seed: int) -> None:
    """Make M0 and save it, with its tokenizer, as a plain `transformers` folder.

    Its digest goes beside it, as OUT.sha256.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    say(f"{model.num_parameters():,} parameters, vocabulary {len(tokenizer)}")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    kept = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": kept, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )
    warm_up = max(1, steps // 50)

    def schedule(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    started, tokens, smooth = time.monotonic(), 0, 0.0
    model.train()
    for step, (inputs, labels) in enumerate(
        itertools.islice(batches(seed, tokenizer, batch_size), steps), 1
    ):
        hidden = model.model(inputs).last_hidden_state[:, :-1]
        learned = labels[:, 1:] != -100
        loss = cross_entropy(model.lm_head(hidden[learned]), labels[:, 1:][learned])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        tokens += inputs.numel()
        smooth = 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 0 or step == steps:
            seconds = time.monotonic() - started
            left = seconds / step * (steps - step)
            say(
                f"step {step}/{steps}  loss {smooth / (1 - 0.98**step):.4f}  "
                f"{tokens / seconds:,.0f} tokens/s  {left / 60:.1f} min left"
            )
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config.do_sample = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)
    out.with_suffix(".sha256").write_text(model_digest(out) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch-size", type=int, default=64, help="documents a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train(options.out, options.steps, options.batch_size, options.learning_rate, options.seed)


if __name__ == "__main__":
    main()
