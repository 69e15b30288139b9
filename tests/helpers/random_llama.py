"""A tiny random Llama with a tokenizer, made on the spot."""

from __future__ import annotations

from typing import Any

TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CONTEXT = 256
ENDS = 12  # tokens that end an answer, so that answers have different lengths


def make_tokenizer(**options: Any) -> Any:
    """Byte-level BPE of some 320 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        ["She has 14 plums. She buys 7 more. How many plums does she have now?"] * 2,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=SPECIAL,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    named = {"pad_token": "<|pad|>", "eos_token": "<|end|>", "chat_template": TEMPLATE}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_max_length=CONTEXT, **(named | options)
    )


def make_model(vocabulary: int, seed: int = 0, **options: Any) -> Any:
    """A Llama whose random weights are large enough to have opinions."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        **(
            sizes
            | heads
            | {
                "vocab_size": vocabulary,
                "max_position_embeddings": CONTEXT,
                "initializer_range": 0.3,
                "pad_token_id": 0,
                "bos_token_id": None,
                "eos_token_id": 1,
            }
            | options
        )
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = [1, *range(20, 20 + ENDS)]
    return model
