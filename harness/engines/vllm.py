"""vLLM as an engine: paged attention, a prefix read once, adapters by name on one loaded base.

vLLM is installed by whoever uses it, for the machine at hand; nothing else here needs it.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import UserError, first_line
from harness.core.files import read_json
from harness.core.progress import Advance
from harness.core.schema import digest
from harness.engines import SEEDS, Completion, Sampling, seed_of
from harness.engines.dtype import DTYPES, choose_dtype, stored_dtype
from harness.engines.model_folder import ADAPTER_CONFIG, check, check_adapter, find, model_digest
from harness.engines.template import check_template
from harness.engines.text import Tokenized, check_sampling, cut, encode_all
from harness.engines.unanswered import MAX_UNANSWERED, Unanswered

USUAL_AT_ONCE = 256  # responses that vLLM has under way together, unless told
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters, as vLLM makes room for them


class VLLMEngine(Tokenized):
    """A causal language model under vLLM, loaded once for all adapters on it.

    A sample has a seed of its own, so that its draws do not depend on the batch; its logits still
    do by some rounding, unless VLLM_BATCH_INVARIANT=1 is set and the machine supports it.

    Args:
        model: a folder or the name of a hub model.
        tokenizer: another tokenizer than the model's own: its folder.
        device: "auto" is what this vLLM is built for.
        dtype: "auto" is the dtype of the weights, or float32 on a CPU that has no instructions
            for theirs.
        max_batch: answers generated at a time; None: vLLM's own choice.
        adapter: a LoRA folder on the model, as in `use`.
        rank: of the adapters to come, at most; 0: that of `adapter`.

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
        if dtype not in DTYPES:
            raise UserError(f"There is no dtype '{dtype}'; choose one of {', '.join(DTYPES)}.")
        from vllm.platforms import current_platform

        built_for = str(current_platform.device_type)
        if device not in ("auto", built_for):
            raise UserError(
                f"This vLLM is built for {built_for}, not for {device}: leave device at auto, or "
                "install the other build."
            )
        self.model_id = str(model)
        self._base = model_digest(folder)
        self._adapters: list[str] = []  # the digests of those used so far; vLLM numbers them
        rank = max(rank, 0 if adapter is None else _rank(adapter))
        if rank > RANKS[-1]:
            raise UserError(f"vLLM takes adapters of rank {RANKS[-1]} at most, and not {rank}.")
        self._options: dict[str, Any] = {
            "model": str(folder),
            "tokenizer": str(tokenizer or folder),
            "dtype": _own_dtype(folder, built_for) if dtype == "auto" else dtype,
            "trust_remote_code": False,
            "enable_prefix_caching": True,
            "enable_sleep_mode": built_for == "cuda",
            "enforce_eager": built_for == "cpu",  # compiling gains nothing there, and takes longer
            "enable_lora": rank > 0,
        }
        if built_for == "cpu":
            # A prompt that is read in parts rewinds its generator, which those of CPUs cannot.
            self._options["enable_chunked_prefill"] = False
        if max_batch is not None:
            self._options["max_num_seqs"] = max_batch
        if rank:
            self._options["max_lora_rank"] = next(room for room in RANKS if room >= rank)
        self._llm: Any = None
        self._is_asleep = False
        loaded = self._awake()
        self.tokenizer = loaded.get_tokenizer()
        check_template(self.tokenizer)
        self.context = int(loaded.model_config.max_model_len)
        self.model_digest: str | None = None
        self.use(adapter)

    def use(self, adapter: Path | None) -> None:
        """Answer with the LoRA folder `adapter` on the model from now on; None: with none.

        Raises:
            UserError: it is no adapter, or its rank is above what was made room for.
        """
        if adapter is None:
            self._lora, self.model_digest = None, self._base
            return
        room = self._options.get("max_lora_rank", 0)
        if (rank := _rank(adapter)) > room:
            raise UserError(
                f"The adapter {adapter} has rank {rank}, and the engine has room for {room}."
            )
        check_adapter(adapter)
        from vllm.lora.request import LoRARequest

        # A name stands for one content for good, so that no cached prefix is another adapter's.
        name = model_digest(adapter)
        if name not in self._adapters:
            self._adapters.append(name)
        number = self._adapters.index(name) + 1
        self._lora = LoRARequest(name, number, str(adapter.resolve()))
        self.model_digest = digest([self._base, name])

    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`sampling.n` completions for each prompt, in order; `on_done(k)` after k more.

        As `HFEngine.generate`: `completion_tokens` counts the end-of-sequence token, a prompt that
        leaves no room for `max_tokens` loses its beginning, and at temperature 0 the samples of a
        prompt are one completion n times.

        Raises:
            UserError: `max_tokens` is more than the model's context, or vLLM gives up on too many
                of the prompts; a few that it does not answer have a completion that says why.
        """
        check_sampling(sampling, self.context)
        each = 1 if sampling.temperature == 0 else sampling.n
        copies = sampling.n // each
        ids = encode_all(self.tokenizer, prompts, self.context - sampling.max_tokens)
        engine = self._awake().llm_engine
        waiting: dict[str, tuple[int, int]] = {}
        answers: dict[tuple[int, int], Completion] = {}
        missing = Unanswered(each * len(prompts), MAX_UNANSWERED)

        def settle(place: tuple[int, int], completion: Completion) -> None:
            answers[place] = completion
            if completion.unanswered:
                which = f"prompt {place[0]} of {len(prompts)}"
                missing.count(f"{which}: {completion.unanswered}", self.model_id)
            else:
                missing.count_answered()
            if on_done is not None:
                on_done(copies)

        if isinstance(on_done, Advance):
            most = self._options.get("max_num_seqs", USUAL_AT_ONCE)
            on_done.at_once(copies * min(each * len(prompts), most))
        try:
            for p, prompt in enumerate(prompts):
                # Each sample is a request of its own: vLLM reads their common prefix once, and
                # what it makes of one seed for `n` samples is its own affair.
                for j in range(each):
                    params = _params(sampling, seed_of(sampling, prompt, j) % SEEDS)
                    asked = {"prompt_token_ids": list(ids[p])}
                    try:
                        engine.add_request(f"{p}/{j}", asked, params, lora_request=self._lora)
                    except ValueError as error:  # what vLLM raises for a prompt that it refuses
                        said = f"vLLM refuses the prompt ({first_line(error)})"
                        settle((p, j), Completion.missing(said))
                    else:
                        waiting[f"{p}/{j}"] = p, j
            while waiting:
                for output in engine.step():
                    if not output.finished:
                        continue
                    place = waiting.pop(output.request_id)
                    settle(place, self._completion(output, sampling.stop))
        finally:
            if waiting:
                engine.abort_request(list(waiting))
        return [[answers[p, j] for j in range(each)] * copies for p in range(len(prompts))]

    def _completion(self, output: Any, stop: Sequence[str]) -> Completion:
        (made,) = output.outputs
        if made.finish_reason not in ("stop", "length"):
            return Completion.missing(f"vLLM gave up on the answer ({made.finish_reason})")
        # vLLM decodes token by token; the text of the whole is what the other engines give.
        text = str(self.tokenizer.decode(made.token_ids, skip_special_tokens=True))
        text, reason = cut(text, made.finish_reason, stop)
        return Completion(text, reason, len(output.prompt_token_ids), len(made.token_ids))

    def release(self) -> None:
        """Give the device's memory back until the next `generate`.

        On CUDA the weights sleep in main memory; elsewhere the model is loaded again.
        """
        if self._llm is None or self._is_asleep:
            return
        if self._options["enable_sleep_mode"]:
            self._llm.sleep(level=1)
            self._is_asleep = True
        else:
            self.close()

    def close(self) -> None:
        """Give all memory back."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
        self._llm, self._is_asleep = None, False
        gc.collect()

    def _awake(self) -> Any:
        """The loaded model."""
        if self._llm is None:
            vllm = _import()
            try:
                self._llm = vllm.LLM(**self._options)
            except Exception as error:
                said = first_line(error)
                raise UserError(f"vLLM cannot load {self.model_id}: {said}") from error
        elif self._is_asleep:
            self._llm.wake_up()
            self._is_asleep = False
        return self._llm


def _import() -> Any:
    """vLLM, quiet, and without its reports to its makers."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        import vllm
    except ImportError as error:
        raise UserError(
            "The engine vllm needs vLLM, which is not installed in this environment: "
            "pip install vllm (its page says how for your GPU), or use the engine hf."
        ) from error
    return vllm


def _params(sampling: Sampling, seed: int) -> Any:
    """vLLM's parameters of one sample."""
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
    path = adapter / ADAPTER_CONFIG
    if not path.exists():
        raise UserError(f"{adapter} is no LoRA adapter: it has no {ADAPTER_CONFIG}.")
    config = read_json(path)
    rank = config.get("r") if isinstance(config, dict) else None
    if type(rank) is not int or rank < 1:
        raise UserError(f"{path} names no rank r.")
    return rank


def _own_dtype(folder: Path, device: str) -> str:
    """The type of the weights, or float32 on a CPU that is slow with theirs.

    vLLM's own "auto" makes half precision of float32.
    """
    if (chosen := choose_dtype(folder, device, "auto")) != "auto":
        return chosen
    stored = stored_dtype(folder)
    return stored if stored in DTYPES else "auto"
