"""Generate with vLLM: paged attention, prefixes read once, several adapters on one loaded base.

Users install vLLM themselves, for their machine; no other module needs it.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError, first_line
from harness.core.files import read_json
from harness.core.progress import Advance
from harness.core.schema import digest
from harness.engines import (
    MAX_UNANSWERED,
    SEEDS,
    Completion,
    Likelihood,
    LocalEngine,
    OnDone,
    Pair,
    Sampling,
    Unanswered,
    by_prompt,
    cannot_score,
    check_continuation,
    cut_at_stop,
    seed_of,
)
from harness.engines.loading import DTYPES, check_dtype, choose_dtype, stored_dtype
from harness.engines.model_folder import ADAPTER_CONFIG, check, check_adapter, find, model_digest
from harness.engines.prompts import check_template, encode_all

DEFAULT_MAX_BATCH = 256  # responses that vLLM generates together by default
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, for which vLLM reserves memory


class VLLMEngine(LocalEngine):
    """A causal language model under vLLM, loaded once for all adapters on it.

    Each sample has its own seed, so its draws do not depend on the batch. Its logits still do, by
    rounding, unless VLLM_BATCH_INVARIANT=1 is set and the machine supports it.

    Args:
        model: a folder or the name of a hub model.
        tokenizer: another tokenizer than the model's own: its folder.
        device: "auto" is the device that this vLLM is built for.
        dtype: "auto" is the dtype of the weights, or float32 on a CPU that has no instructions
            for theirs.
        max_batch: responses generated together; None: vLLM's own choice.
        adapter: a LoRA folder on the model, as in `use`.
        rank: highest rank of the adapters used later; 0: that of `adapter`.

    Raises:
        UserError: vLLM is not installed, or what cannot be loaded and what to do about it.
    """

    name = "vllm"

    def __init__(
        self,
        model: str | Path,
        *,
        tokenizer: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        max_batch: int | None = None,
        adapter: Path | None = None,
        rank: int = 0,
    ) -> None:
        _import()
        folder = find(model)
        check(folder)
        check_dtype(dtype)
        from vllm.platforms import current_platform

        self._built_for = built_for = str(current_platform.device_type)
        if device not in ("auto", built_for):
            raise UserError(
                f"This vLLM is built for {built_for}, not for {device}: leave device at auto, or "
                "install the other build."
            )
        self.model_id = str(model)
        self._base = model_digest(folder)
        self._adapters: list[str] = []  # digests of the adapters used so far; vLLM numbers them
        rank = max(rank, 0 if adapter is None else _rank(adapter))
        if rank > RANKS[-1]:
            raise UserError(f"vLLM takes adapters up to rank {RANKS[-1]}, and this one has {rank}.")
        self._options: dict[str, Any] = {
            "model": str(folder),
            "tokenizer": str(tokenizer or folder),
            "dtype": _dtype_of(folder, built_for) if dtype == "auto" else dtype,
            "trust_remote_code": False,
            "enable_prefix_caching": True,
            "enable_sleep_mode": built_for == "cuda",
            "enforce_eager": built_for == "cpu",  # compiling takes time there and gains nothing
            "enable_lora": rank > 0,
        }
        if built_for == "cpu":
            # Chunked prefill rewinds a generator, which a CPU's generator cannot.
            self._options["enable_chunked_prefill"] = False
        if max_batch is not None:
            self._options["max_num_seqs"] = max_batch
        if rank:
            self._options["max_lora_rank"] = next(known for known in RANKS if known >= rank)
        self._llm: Any = None
        self._is_asleep = False
        loaded = self._awake()
        self.tokenizer = loaded.get_tokenizer()
        check_template(self.tokenizer)
        self.context = int(loaded.model_config.max_model_len)
        self.model_digest: str | None = None
        self.use(adapter)

    def use(self, adapter: Path | None) -> None:
        """Use the LoRA folder `adapter` from now on; None: the model without an adapter.

        Raises:
            UserError: the folder is not an adapter, or its rank is above the engine's.
        """
        if adapter is None:
            self._lora, self.model_digest = None, self._base
            return
        highest = self._options.get("max_lora_rank", 0)
        if (rank := _rank(adapter)) > highest:
            raise UserError(
                f"The adapter {adapter} has rank {rank}, and the engine was opened for {highest}."
            )
        from vllm.lora.request import LoRARequest

        # Adapters are named by content, so that no cached prefix is another adapter's.
        name = model_digest(adapter)
        if name not in self._adapters:
            self._adapters.append(name)
        number = self._adapters.index(name) + 1
        self._lora = LoRARequest(name, number, str(adapter.resolve()))
        self.model_digest = digest([self._base, name])

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_done: OnDone | None = None
    ) -> list[list[Completion]]:
        """Generate `sampling.n` completions per prompt; see `LocalEngine.generate`.

        Raises:
            UserError: `max_tokens` is more than the model's context, or vLLM gives up on too many
                prompts; if it gives up on a few, their completions say why.
        """
        sampling.check(self.context)
        each, copies = sampling.distinct, sampling.copies
        ids = encode_all(self.tokenizer, prompts, self.context - sampling.max_tokens)
        engine = self._awake().llm_engine
        waiting: dict[str, tuple[int, int]] = {}
        made: dict[tuple[int, int], Completion] = {}
        missing = Unanswered(each * len(prompts), MAX_UNANSWERED)

        def finish(place: tuple[int, int], completion: Completion) -> None:
            made[place] = completion
            if completion.unanswered:
                which = f"prompt {place[0]} of {len(prompts)}"
                missing.count(f"{which}: {completion.unanswered}", self.model_id)
            else:
                missing.count_answered()
            if on_done is not None:
                on_done(copies)

        if isinstance(on_done, Advance):
            most = self._options.get("max_num_seqs", DEFAULT_MAX_BATCH)
            on_done.at_once(copies * min(each * len(prompts), most))
        try:
            # 1. Send a request per sample: vLLM reads their common prefix once, and how it draws
            # `n` samples from one seed is not ours to know.
            for place in [(p, j) for p in range(len(prompts)) for j in range(each)]:
                p, j = place
                params = _params(sampling, seed_of(sampling, prompts[p], j) % SEEDS)
                asked = {"prompt_token_ids": list(ids[p])}
                try:
                    engine.add_request(f"{p}/{j}", asked, params, lora_request=self._lora)
                except ValueError as error:  # raised for a prompt that vLLM refuses
                    reason = f"vLLM refuses the prompt ({first_line(error)})"
                    finish(place, Completion.missing(reason))
                else:
                    waiting[f"{p}/{j}"] = place
            # 2. Collect the outputs as they finish.
            while waiting:
                for output in engine.step():
                    if output.finished:
                        place = waiting.pop(output.request_id)
                        finish(place, self._completion(output, sampling.stop))
        finally:
            if waiting:
                engine.abort_request(list(waiting))
        return by_prompt(made, len(prompts), sampling)

    def loglikelihood(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """Score each continuation after its context; a pair too long loses its beginning.

        vLLM reads every text whole: it has no log-probabilities of what its cache has. Texts hold
        one token less than the context, since vLLM generates one.

        Raises:
            UserError: a continuation is longer than the context, or this vLLM has no prompt
                log-probabilities.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        if self._options["enable_lora"] and self._built_for == "cpu":
            raise cannot_score(self, "vLLM's CPU build fails at this where it may load adapters")
        texts: dict[tuple[int, ...], int] = {}
        places = []
        for before, after in pairs:
            check_continuation(after, self.context - 2)
            ids = tuple((before + after)[-(self.context - 1) :])
            places.append(texts.setdefault(ids, len(texts)))
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=1,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            outputs = self._awake().generate(
                [{"prompt_token_ids": list(ids)} for ids in texts],
                params,
                use_tqdm=False,
                lora_request=self._lora,
            )
        except ValueError as error:
            raise cannot_score(self, f"vLLM refuses ({first_line(error)})") from error
        found = []
        for (_, after), place in zip(pairs, places, strict=True):
            known = outputs[place].prompt_logprobs
            if known is None:
                raise cannot_score(self, "this vLLM has no log-probabilities of prompts")
            told = [x[t] for x, t in zip(known[len(known) - len(after) :], after, strict=True)]
            found.append((math.fsum(x.logprob for x in told), all(x.rank == 1 for x in told)))
        return found

    def _completion(self, output: Any, stop: Sequence[str]) -> Completion:
        (made,) = output.outputs
        if made.finish_reason not in ("stop", "length"):
            return Completion.missing(f"vLLM gave up on the answer ({made.finish_reason})")
        # vLLM decodes token by token; the other engines decode the whole response.
        text = str(self.tokenizer.decode(made.token_ids, skip_special_tokens=True))
        text, reason = cut_at_stop(text, made.finish_reason, stop)
        return Completion(text, reason, len(output.prompt_token_ids), len(made.token_ids))

    def release(self) -> None:
        """Free the device's memory until the next `generate`.

        On CUDA the weights are moved to main memory; elsewhere the model is loaded again.
        """
        if self._llm is None or self._is_asleep:
            return
        if self._options["enable_sleep_mode"]:
            self._llm.sleep(level=1)
            self._is_asleep = True
        else:
            self.close()

    def close(self) -> None:
        """Free all memory."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
        self._llm, self._is_asleep = None, False
        gc.collect()

    def _awake(self) -> Any:
        """Return vLLM's model, loaded and on its device."""
        if self._llm is None:
            vllm = _import()
            try:
                self._llm = vllm.LLM(**self._options)
            except Exception as error:
                raise UserError(f"vLLM cannot load {self.model_id}: {first_line(error)}") from error
        elif self._is_asleep:
            self._llm.wake_up()
            self._is_asleep = False
        return self._llm


def _import() -> Any:
    """Import vLLM with little logging and without usage reports."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
    except ImportError as error:
        raise UserError(
            "The engine vllm needs vLLM, which is not installed in this environment: "
            "pip install 'rlrf-harness[vllm]' (vLLM's page says how for your GPU), or use the "
            "engine hf."
        ) from error
    return vllm


def _params(sampling: Sampling, seed: int) -> Any:
    """Make vLLM's parameters of one sample."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        seed=seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _rank(adapter: Path) -> int:
    """Read the rank of the LoRA folder `adapter`, which must be safe to load."""
    check_adapter(adapter)
    rank = read_json(adapter / ADAPTER_CONFIG).get("r")
    if type(rank) is not int or rank < 1:
        raise UserError(f"{adapter / ADAPTER_CONFIG} does not name the rank r.")
    return rank


def _dtype_of(folder: Path, device: str) -> str:
    """Choose the dtype of the weights, or float32 on a CPU that is slow with it.

    vLLM's own "auto" turns float32 into half precision.
    """
    if (chosen := choose_dtype(folder, device, "auto")) != "auto":
        return chosen
    stored = stored_dtype(folder)
    return stored if stored in DTYPES else "auto"
