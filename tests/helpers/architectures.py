"""Random models of real architectures, with tokenizers and chat templates of their families."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT = [
    "What is 3 plus 4? The answer is 7, and you can check it.",
    "Use more letters.\nRewrite the answer.",
    "user assistant model system: a short answer, please; 1 2 3 4 5 6 7 8 9 0",
]
CONTEXT = 160
LLAMA = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set told = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}"
    "{% set told = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (told if loop.index0 == 0 else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


GEMMAS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
# Random models with tied embeddings, scaled as Gemma does, repeat their last token.
SLIDING = (("sliding_window", 16), ("query_pre_attn_scalar", 16), ("tie_word_embeddings", False))


@dataclass(frozen=True)
class Family:
    """How to make one; `end` is the token that ends a turn, `bos` the one that starts a prompt."""

    model: str
    config: str
    template: str
    end: str
    bos: str | None = None
    pad: str | None = None
    eos: str | None = None
    special: tuple[str, ...] = ()
    more: tuple[tuple[str, Any], ...] = ()


FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM", "LlamaConfig", LLAMA, end="</s>", bos="<s>", eos="</s>",
        special=("<unk>", "<s>", "</s>"),
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", "Qwen3Config", CHATML, end="<|im_end|>", eos="<|im_end|>",
        pad="<|endoftext|>", special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        more=(("tie_word_embeddings", True),),
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM", "Gemma2Config", GEMMA, end="<end_of_turn>", bos="<bos>", eos="<eos>",
        pad="<pad>", special=GEMMAS,
        more=(*SLIDING, ("attn_logit_softcapping", 0.5), ("final_logit_softcapping", 5.0)),
    ),
    "gemma3": Family(
        "Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA, end="<end_of_turn>", bos="<bos>",
        eos="<eos>", pad="<pad>", special=GEMMAS,
        more=(*SLIDING, ("layer_types", ["sliding_attention", "full_attention"])),
    ),
}  # fmt: skip


def save(folder: Path, name: str, *, spread: float = 0.02) -> Path:
    """Write the model `name` of FAMILIES as a plain `transformers` folder."""
    import torch
    import transformers

    family = FAMILIES[name]
    tokenizer = _tokenizer(name)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in family.special}
    torch.manual_seed(0)
    config = getattr(transformers, family.config)(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=CONTEXT,
        initializer_range=spread,
        pad_token_id=ids.get(family.pad),
        bos_token_id=ids.get(family.bos),
        eos_token_id=ids[family.eos],
        **dict(family.more),
    )
    model = getattr(transformers, family.model)(config)
    ends = sorted({ids[family.eos], ids[family.end]})
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=ends, bos_token_id=ids.get(family.bos), pad_token_id=ids.get(family.pad)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(name: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    shared = {"special_tokens": list(family.special), "show_progress": False}
    if name == "qwen3":  # byte-level BPE
        made = Tokenizer(models.BPE())
        made.normalizer = normalizers.NFC()
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, **shared)
    elif name == "llama":  # SentencePiece's BPE, which puts a space before the first word
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
        trainer = trainers.BpeTrainer(vocab_size=120, max_token_length=6, **shared)
    else:  # SentencePiece's unigrams, which do not
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        made.decoder = decoders.Metaspace(prepend_scheme="never")
        trainer = trainers.UnigramTrainer(vocab_size=100, unk_token="<unk>", **shared)
    made.train_from_iterator(TEXT, trainer)
    if family.bos:
        made.post_processor = TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[(family.bos, made.token_to_id(family.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.pad,
        unk_token="<unk>" if "<unk>" in family.special else None,
        chat_template=family.template,
        additional_special_tokens=[
            token for token in family.special if token not in {family.bos, family.eos, family.pad}
        ],
    )
