"""Reward models: sequence classifiers with one output, which score how good a response is.

Weights are loaded as safetensors only, and a model's own Python is never run.

TRL trains them; the loss is -log sigmoid(r_chosen - r_rejected) (R. A. Bradley and M. E. Terry,
Biometrika 1952).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import safetensors
from pydantic import Field

from harness.core.errors import UserError, explain_out_of_memory, first_line, is_out_of_memory
from harness.core.files import write_json, write_jsonl
from harness.core.folders import new_folder
from harness.core.outputs import model_kind
from harness.core.progress import track
from harness.core.schema import Message, digest
from harness.engines import loading, prompts
from harness.engines.loading import choose_dtype
from harness.engines.model_folder import Checkpoint, check, find, model_digest
from rlrf.config import Device
from rlrf.models.reward.preferences import Preference, preferences_digest
from rlrf.models.trained_model import Manifest, file_digests, read_manifest
from rlrf.objectives import base as common
from rlrf.objectives.base import load_tokenizer
from rlrf.objectives.custom_loss import pad
from rlrf.objectives.job import Job
from rlrf.quiet import quiet
from rlrf.training_config import Adapter, Optimisation

Rewards = npt.NDArray[np.float64]

MANIFEST = "reward_model.json"
LORA = Adapter(r=8, alpha=32, dropout=0.1)
TOO_LARGE = (
    "The reward model does not fit in memory. Take a smaller one, or load its weights as bfloat16 "
    "(engine.dtype)."
)
BATCH_TOKENS = 4_096  # of a forward pass, padding included
DEFAULT_CONTEXT = 2048


class RewardTraining(Optimisation):
    """Training of a reward model; the defaults are those of SER (arXiv 2411.00418)."""

    place: ClassVar[str] = ""

    adapter: Adapter | None = Field(default=LORA, description="LoRA; null: train all weights")
    learning_rate: float = Field(default=2e-5, gt=0)
    epochs: float = Field(default=2, gt=0)
    batch_size: int = Field(default=40, ge=1, description="pairs per forward pass")
    max_length: int = Field(
        default=512, gt=0, description="tokens of prompt and response; longer pairs are left out"
    )
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1, description="share of the steps")
    center: float = Field(
        default=0.0,
        ge=0,
        description="weight of (r_chosen + r_rejected)^2, which keeps rewards around 0 "
        "(arXiv 2312.09244 uses .01): preferences do not determine the offset of rewards, on which "
        "sigmoid(r) and the spread of an ensemble depend",
    )


class RewardManifest(Manifest):
    """`reward_model.json`: what a reward model was trained from, and its files."""

    preferences: str = Field(description="digest of the preferences, in order")
    pairs: int
    left_out: int = Field(description="pairs that are longer than `max_length`")
    training: RewardTraining


class Scorer(Protocol):
    """Scores how good responses are."""

    digest: str

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Rewards: ...


class RewardModel:
    """A reward model, loaded once to score responses.

    Args:
        model: a folder or the name of a hub model.
        device: where the model runs, and the dtype of its weights there.

    Raises:
        UserError: the model cannot be loaded, is not a reward model, or differs from its manifest.
    """

    @explain_out_of_memory(TOO_LARGE)
    def __init__(self, model: str | Path, *, device: Device | None = None) -> None:
        import torch

        device = device or Device()
        folder = find(model)
        read_manifest(folder, MANIFEST, RewardManifest)
        self.digest = model_digest(folder)
        self.tokenizer = load_tokenizer(folder)
        on_gpu = device.device != "cpu" and torch.cuda.is_available()
        place = "cuda" if on_gpu else "cpu"
        check(folder)
        dtype = choose_dtype(folder, place, device.dtype)
        self.model = load_model(folder, dtype, new_head=False)
        check_tokenizer(self.tokenizer, self.model.config, folder)
        # The head reads the last token that is not padding, so the model must know the padding.
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.model.to(place).eval()
        self.context = context(self.model, self.tokenizer)

    def render(self, prompt: str) -> str:
        """Render a user's prompt by the model's chat template, if it has one."""
        return render(prompt, self.tokenizer)

    @explain_out_of_memory(TOO_LARGE)
    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
        """Return the reward of each response to its prompt, shape (n,).

        Prompts are text as a policy model sees it. A text longer than the model's context loses
        the beginning of its prompt, because the response is what is judged.

        Raises:
            UserError: a reward is not a finite number.
        """
        import torch

        rows = [
            encode(prompt, response, self.tokenizer)[-self.context :]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        rewards = np.zeros(len(rows))
        with torch.inference_mode(), track("score", len(rows), "responses") as advance:
            for batch in batches([len(row) for row in rows]):
                inputs = pad(
                    [rows[i] for i in batch], [0] * len(batch), self.tokenizer.pad_token_id
                )
                output = self.model(
                    input_ids=inputs["input_ids"].to(self.model.device),
                    attention_mask=inputs["attention_mask"].to(self.model.device),
                    use_cache=False,
                )
                rewards[batch] = output.logits[:, 0].double().cpu().numpy()
                advance(len(batch))
        if not np.isfinite(rewards).all():
            raise UserError(
                "The reward model gives rewards that are not finite numbers. Its weights are "
                "broken, or float16 is too narrow for them."
            )
        return rewards


class Ensemble:
    """Several reward models as one: their mean reward minus `beta` times its standard deviation.

    Models that differ in the seed of their head make different errors, which a policy model finds
    one by one; where they disagree, the lower bound trusts none of them (T. Coste et al., arXiv
    2310.02743). Rewards have no common zero: train the members with `center`.

    Raises:
        UserError: there are fewer than two members.
    """

    def __init__(self, members: Sequence[Scorer], beta: float = 0.0) -> None:
        if len(members) < 2:
            raise UserError("An ensemble needs at least two reward models.")
        self.members = members
        self.beta = beta
        self.digest = digest([[member.digest for member in members], beta])

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> Rewards:
        """Return the lower bound on the reward of each response, shape (n,)."""
        rewards = [member.score(prompts, responses) for member in self.members]
        return lower_bound(rewards, self.beta)


def lower_bound(rewards: npt.ArrayLike, beta: float) -> Rewards:
    """Compute mean - beta * standard deviation (k - 1 degrees of freedom) of rewards (k, n)."""
    values = np.asarray(rewards, dtype=np.float64)
    return np.asarray(values.mean(axis=0) - beta * values.std(axis=0, ddof=1))


def margins(scorer: Scorer, preferences: Sequence[Preference]) -> Rewards:
    """Compute the reward of the chosen response minus that of the rejected one, shape (n,)."""
    chosen, rejected = score_pairs(scorer, preferences)
    return np.asarray(chosen - rejected)


def score_pairs(scorer: Scorer, preferences: Sequence[Preference]) -> tuple[Rewards, Rewards]:
    """Score the chosen and the rejected responses, each of shape (n,)."""
    prompts = [one.prompt for one in preferences]
    texts = [one.chosen for one in preferences] + [one.rejected for one in preferences]
    chosen, rejected = np.split(scorer.score(prompts * 2, texts), 2)
    return chosen, rejected


def batches(lengths: Sequence[int], most: int = BATCH_TOKENS) -> list[list[int]]:
    """Group the indices of texts of similar length, at most `most` padded tokens per group."""
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # Lengths rise, so this text is the longest of its group.
        if groups and (len(groups[-1]) + 1) * lengths[place] <= most:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


# Text to tokens ------------------------------------------------------------------------------


def encode(prompt: str, response: str, tokenizer: Any) -> list[int]:
    """Encode a prompt and its response separately, as they were when the response was sampled.

    The response always ends with the end token, even if a length limit cut it off, because a
    reward belongs to a complete text.
    """
    prompt, response = prompts.without_surrogates(prompt), prompts.without_surrogates(response)
    ids = prompts.encode(tokenizer, prompt)
    if ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token):
        ids = ids[:-1]  # tokenizers such as BERT's end every text, but the response follows
    answered = tokenizer.encode(response, add_special_tokens=False)
    return [*ids, *answered, tokenizer.eos_token_id]


def render(prompt: str, tokenizer: Any) -> str:
    """Render a user's prompt by the chat template, or return it as it is without one."""
    return prompts.render(tokenizer, [Message(role="user", content=prompt)])


def context(model: Any, tokenizer: Any, wanted: int | None = None) -> int:
    """Return how many tokens `model` reads at most, but not more than `wanted`."""
    limits = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    known = [limit for limit in (*limits, wanted) if limit is not None and limit < 10**9]
    return min(known, default=DEFAULT_CONTEXT)


# Loading -------------------------------------------------------------------------------------


def check_reward_model(folder: Path) -> None:
    """Check that `folder` holds a reward model, without reading its weights.

    Raises:
        UserError: its head does not give one number, or its tokenizer is another model's.
    """
    check(folder)
    check_tokenizer(load_tokenizer(folder), _load_config(folder, new_head=False), folder)


def check_tokenizer(tokenizer: Any, config: Any, folder: Path) -> None:
    """Check that every token has an embedding in the model of `config`.

    Raises:
        UserError: the tokenizer is another model's.
    """
    loading.check_vocabulary(len(tokenizer), config.get_text_config().vocab_size, folder)


@quiet()
def load_model(folder: Path, dtype: str, *, new_head: bool) -> Any:
    """Load a model with a head that gives one number; `new_head` adds the head if it is missing.

    Raises:
        UserError: the model cannot be loaded, has no head, or its head gives several numbers.
    """
    import transformers

    check(folder)
    _load_config(folder, new_head=new_head)
    with _explain_load_errors(folder):
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if info["missing_keys"] and not new_head:
        raise UserError(
            f"The weights in {folder} lack {', '.join(sorted(info['missing_keys']))}: they are not "
            "a reward model's, whatever its configuration says."
        )
    return model


def _load_config(folder: Path, *, new_head: bool) -> Any:
    """Load the model's configuration, and check that its head gives one number."""
    import transformers

    with _explain_load_errors(folder):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    has_head = any("SequenceClassification" in name for name in config.architectures or [])
    if has_head and config.num_labels != 1:
        raise UserError(
            f"The model in {folder} gives {config.num_labels} numbers per text, but a reward is "
            "one number. Name another model."
        )
    if not has_head and not new_head:
        raise UserError(
            f"{folder} is not a reward model: its head gives words, not a number. Train one from "
            "it with `rlrf reward-model train`."
        )
    return config


@contextlib.contextmanager
def _explain_load_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"Cannot load the model in {folder}: {first_line(error)}") from error


KIND = model_kind("a reward model", MANIFEST)
METRICS = ("accuracy", "margin", "mean_reward", "min_reward", "max_reward")


def train(
    preferences: Sequence[Preference],
    base: Path,
    training: RewardTraining,
    *,
    device: Device,
    seed: int,
    out: Path,
) -> RewardManifest:
    """Train a reward model from `base` and save it as `out`; equal inputs give equal bytes.

    `base` is a language model, which gets a new head, or a reward model, which keeps its own.
    `out` becomes a plain `transformers` folder (one label; a LoRA adapter is merged) with
    `metrics.jsonl`, one row per step, and `reward_model.json`. An existing reward model is
    replaced only after training has succeeded.

    Raises:
        UserError: `out` holds something else, `base` cannot be used, no pair fits, or the loss is
            not a finite number.
    """
    KIND.check(out, reads=[base])
    with (
        quiet(),
        common.advise_on_memory(training.place),
        new_folder(out, KIND.may_replace) as folder,
    ):
        job = Job(
            start=Checkpoint("the base model", base),
            config=training,
            adapter=training.adapter,
            device=device,
            seed=seed,
            out=folder,
        )
        used = _fit(preferences, job)
        manifest = RewardManifest(
            base=model_digest(base),
            preferences=preferences_digest(preferences),
            pairs=used,
            left_out=len(preferences) - used,
            training=training,
            seed=seed,
            files=file_digests(folder),
        )
        write_json(folder / MANIFEST, manifest)
    return manifest


def _fit(preferences: Sequence[Preference], job: Job[RewardTraining]) -> int:
    """Train, and save model, tokenizer and metrics; return the number of pairs that were used."""
    import datasets
    import transformers
    from trl import RewardConfig, RewardTrainer

    training, base = job.config, job.start.model
    transformers.set_seed(job.seed)  # the new head is drawn when the model is loaded
    tokenizer = common.load_tokenizer(base)
    dtype = "float32" if training.adapter is None else common.adapted_dtype(base, job.device)
    model = load_model(base, dtype, new_head=True)
    check_tokenizer(tokenizer, model.config, base)
    rows = _tokenize(preferences, tokenizer, context(model, tokenizer, training.max_length))
    if not rows:
        raise UserError(
            f"None of the {len(preferences)} pairs fits into {training.max_length} tokens; raise "
            "max_length, or shorten the pairs."
        )
    steps = common.count_steps(len(rows), training)
    with (
        common.trainer_arguments(job) as arguments,
        track("train reward model", steps, "steps") as advance,
    ):
        metrics = common.metrics_callback(advance, {name: name for name in METRICS})
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                **arguments,
                max_length=None,  # the rows already fit
                center_rewards_coefficient=training.center or None,
                disable_dropout=training.adapter is None or training.adapter.dropout == 0,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[metrics],
            peft_config=training.adapter and common.lora_config(training.adapter, "SEQ_CLS"),
        )
        common.run_trainer(trainer, job)
    trained = trainer.model if training.adapter is None else trainer.model.merge_and_unload()
    common.save_model(trained, tokenizer, base, job.out)
    write_jsonl(job.out / "metrics.jsonl", metrics.rows)
    return len(rows)


def _tokenize(
    preferences: Sequence[Preference], tokenizer: Any, max_length: int
) -> list[dict[str, list[int]]]:
    """Encode the pairs of which both texts fit into `max_length` tokens."""
    rows = []
    for pair in preferences:
        chosen = encode(pair.prompt, pair.chosen, tokenizer)
        rejected = encode(pair.prompt, pair.rejected, tokenizer)
        if max(len(chosen), len(rejected)) <= max_length:
            rows.append({"chosen_ids": chosen, "rejected_ids": rejected})
    return rows
