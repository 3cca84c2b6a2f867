"""Sampling with vLLM in the trainer's own processes. Every call of vLLM's is in this file.

One engine a rank, or one a tensor-parallel group of ranks; its weights are its own and are pushed
in process after every update, see `VllmEngine.push_weights`. What was run where, with which
versions: docs/engines.md.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from g2rl.engines import colocated
from g2rl.engines.drift import PROBE, SAMPLES, TOLERANCE, Drift, measure, probe_prompts, refuse
from g2rl.engines.engine import Key, seed_of
from g2rl.policy.policy import Policy
from g2rl.types import Completion, SamplingParams, Tokenizer

log = logging.getLogger(__name__)
TESTED = ">=0.32,<0.33"
IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
# a reload warns of every layer without weights
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
MIN_TEMPERATURE = 0.01  # asked for less, vLLM silently samples at this


def import_vllm() -> Any:
    """The vllm module, set up to run inside this process.

    Raises:
        ImportError: vLLM is missing, or cannot be imported.
        RuntimeError: its version has not been tried with this adapter, or it would run in another
        process.
    """
    # in this process, and quiet
    if os.environ.setdefault(IN_PROCESS, "0") != "0":
        raise RuntimeError(
            f"engine=vllm pushes weights in process: unset {IN_PROCESS}, or set it to 0"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # vLLM speaks before it has read that itself
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())

    # the library, in a version that was tried
    try:
        import vllm
    except ImportError as error:
        raise ImportError(
            f"engine=vllm needs vLLM {TESTED} and cannot import it ({error}): pip install 'g2rl[vllm]' on a "
            "machine with GPUs, `make test-vllm` shows how on a CPU; engine=transformers needs neither"
        ) from error
    check_version(getattr(vllm, "__version__", "unknown"))
    return vllm


def check_version(version: str) -> None:
    """Refuse a version that was not tried: a push that silently does nothing is what would go
    wrong.

    Raises:
        RuntimeError: naming the version and the range.
    """
    try:
        tried = SpecifierSet(TESTED).contains(Version(version), prereleases=True)
    except InvalidVersion:
        tried = False
    if not tried:
        raise RuntimeError(
            f"engine=vllm was tried with vLLM {TESTED}, installed is {version}: pip install 'vllm{TESTED}'"
        )


class VllmEngine:
    """Sample with vLLM, colocated with the trainer.

    Args:
        policy: the training policy; `policy.weights()` is what a push takes over.
        tokenizer: decodes the response text.
        stop_ids: token ids that end a response.
        max_rows: responses decoded at once.
        max_model_len: prompt and response together, in tokens; None: the model's positions.
        dtype: float32 or bfloat16; None: what the policy computes in.
        tensor_parallel: ranks that share one engine; needs torch.distributed.
        gpu_memory_utilization: share of the device's memory for vLLM, where `kv_cache_mb` is None.
        kv_cache_mb: memory of the KV cache, MiB.
        enforce_eager: no CUDA graphs, no compilation.
        block_size: tokens of one block of the KV cache; None: vLLM's choice.
        sleep: give the device memory back between samplings; "auto": on GPUs. vLLM cannot on a CPU.
        drift_every: compare log-probs with the policy at the first push and each so many; 0: the
            first only.
        drift_tolerance: nats, of the largest difference (float32) or the mean one (bfloat16); None:
            by dtype.
        options: further arguments of `vllm.LLM`.

    Raises:
        ImportError: vLLM is missing.
        RuntimeError: a version that was not tried, or several ranks without torch.distributed.
        ValueError: for a setting that does not fit the others or the machine.
    """

    reports_logps = True

    def __init__(
        self,
        policy: Policy,
        tokenizer: Tokenizer,
        stop_ids: Sequence[int],
        max_rows: int = 256,
        max_model_len: int | None = None,
        dtype: str | None = None,
        tensor_parallel: int = 1,
        gpu_memory_utilization: float = 0.4,
        kv_cache_mb: int | None = None,
        enforce_eager: bool = False,
        block_size: int | None = None,
        sleep: bool | str = "auto",
        drift_every: int = 10,
        drift_tolerance: float | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        # how it is used
        self.policy, self.tokenizer, self.stop_ids = policy, tokenizer, list(stop_ids)
        self.sleeps = resolve_sleep(sleep, policy.device)
        self.drift_every = drift_every
        dtype, self.compared_in = colocated.resolve_dtype(dtype, policy)
        self.tolerance = TOLERANCE[self.compared_in] if drift_tolerance is None else drift_tolerance

        # what vLLM is told
        self.vllm = import_vllm()
        self.team = colocated.tensor_parallel_group(tensor_parallel)
        arguments: dict[str, Any] = {
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "load_format": "dummy",  # the first push brings the weights; nothing samples before
            "logprobs_mode": "processed_logprobs",  # after temperature and truncation
            "enable_prefix_caching": True,  # a prompt is read once for its whole group
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel,
            "max_num_seqs": max_rows,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            "kv_cache_memory_bytes": None if kv_cache_mb is None else kv_cache_mb << 20,
            "enforce_eager": enforce_eager,
            "enable_sleep_mode": self.sleeps,
        }
        if block_size is not None:
            arguments["block_size"] = block_size
        if colocated.world_size() > 1:
            arguments["distributed_executor_backend"] = "external_launcher"

        # free options may not change these
        if taken := sorted(set(arguments) & set(options or {})):
            raise ValueError(f"engine.options.{taken[0]} is set by g2rl; use engine's own settings")

        # the engine; its weights come with the first push
        self.folder = colocated.export_config(policy.model)
        with colocated.random_state_kept(policy.device):
            self.llm = self.vllm.LLM(self.folder, **arguments, **(options or {}))

        # probe prompts span more than two blocks of the prefix cache
        config = self.llm.llm_engine.vllm_config
        self.max_model_len: int = config.model_config.max_model_len
        length = min(2 * config.cache_config.block_size + 8, self.max_model_len - PROBE.max_tokens)
        if length < 1:
            raise ValueError(
                f"engine.max_model_len={self.max_model_len}: must be over {PROBE.max_tokens}"
            )
        self.probe = probe_prompts(policy.model.config.vocab_size, length)
        self.pushes, self.asleep = 0, False
        self.drift: Drift | None = None  # of the latest check

    def push_weights(self) -> None:
        """Replace vLLM's weights by the policy's, and check that they arrived.

        The order matters: memory for weights, weights, memory for the KV cache, so that what the
        transfer needs is free before the cache is there; then the prefix cache, of the old weights,
        is dropped.

        Raises:
            DriftError: vLLM does not give the policy's log-probs.
            RuntimeError: requests are still running.
        """
        # memory for weights, then the weights
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": self.policy.weights()}
        )
        if self.policy.device.type == "cpu":
            self.llm.apply_model(repack_heads)

        # memory for the KV cache, whose prefixes are of the old weights
        if self.asleep and not self.llm.wake_up(tags=["kv_cache"]):
            raise RuntimeError("engine=vllm: vLLM did not wake up after a weight push")
        self.asleep = False
        self.drop_prefixes()

        # did they arrive?
        self.pushes += 1
        if self.pushes == 1 or (self.drift_every and (self.pushes - 1) % self.drift_every == 0):
            self.check_drift()

    def drop_prefixes(self) -> None:
        """Forget cached prefixes, which were computed with earlier weights."""
        if not self.llm.reset_prefix_cache():
            raise RuntimeError(
                "engine=vllm: the prefix cache cannot be dropped while requests are running"
            )

    def check_drift(self) -> None:
        """Sample the probe responses and compare their log-probs with the policy's.

        Raises:
            DriftError: over the tolerance.
        """
        # sample, score, compare
        keys = [(p,) for p in range(len(self.probe))]
        groups = self.sample(self.probe, keys, SAMPLES, PROBE, stop_ids=[])
        self.drift = measure(self.policy, self.probe, groups, PROBE.temperature)
        log.info(
            "weight push %d: vLLM's log-probs differ from the trainer's by %s",
            self.pushes,
            self.drift,
        )
        refuse(
            self.drift,
            self.tolerance,
            self.compared_in,
            f"vLLM {self.vllm.__version__}",
            self.pushes,
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. All ranks of a tensor-parallel group call it together, with equal
        settings.

        Raises:
            RuntimeError: before the first push.
            ValueError: for a temperature, or a length, that vLLM would silently change.
        """
        # refuse what vLLM would silently change
        if not self.pushes:
            raise RuntimeError("engine=vllm has no weights before the first push_weights()")
        check_request(prompts, params, self.max_model_len)

        if self.asleep:
            self.llm.wake_up()
            self.asleep = False
            self.drop_prefixes()

        # all ranks of a team sample together
        before, everyone, all_keys = colocated.together(self.team, prompts, keys)
        told = on_progress if self.team is None else None  # a team's responses are not told apart
        groups = self.sample(everyone, all_keys, samples, params, self.stop_ids, told)
        if on_progress and told is None:
            on_progress(len(prompts) * samples)

        # give the memory back
        if self.sleeps:
            self.llm.sleep(level=1)
            self.asleep = True
        return groups[before : before + len(prompts)]

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        stop_ids: Sequence[int],
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """One request a sample, each with its own seed: what is drawn does not depend on the
        batch."""
        # one request a sample
        token_prompts: list[Any] = []
        requests: list[Any] = []
        for prompt, key in zip(prompts, keys, strict=True):
            for sample in range(samples):
                token_prompts.append(self.vllm.TokensPrompt(prompt_token_ids=list(prompt)))
                requests.append(self._request(params, seed_of(key, sample), stop_ids))

        bar = colocated.progress_bar(on_progress) if on_progress else False
        outputs = self.llm.generate(token_prompts, requests, use_tqdm=bar)
        completions = [self.completion(output.outputs[0], params, stop_ids) for output in outputs]
        starts = range(0, len(completions), samples)
        return [completions[start : start + samples] for start in starts]

    def _request(self, params: SamplingParams, seed: int, stop_ids: Sequence[int]) -> Any:
        """vLLM's sampling parameters of one sample."""
        return self.vllm.SamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            seed=seed,
            max_tokens=params.max_tokens,
            stop_token_ids=list(stop_ids),
            ignore_eos=True,
            detokenize=False,
            logprobs=0,
            flat_logprobs=True,
        )

    def completion(
        self, output: Any, params: SamplingParams, stop_ids: Sequence[int]
    ) -> Completion:
        """A completion from vLLM's output, checked.

        Raises:
            RuntimeError: it ended for another reason than a stop token or the limit, or its
                log-probabilities do not fit its tokens.
        """
        ids, logps = list(output.token_ids), list(output.logprobs.logprobs)
        if output.finish_reason not in ("stop", "length") or len(logps) != len(ids):
            raise RuntimeError(
                f"engine=vllm: a response of {len(ids)} tokens with {len(logps)} log-probs ended by "
                f"{output.finish_reason}"
            )
        stopped = bool(ids) and ids[-1] in stop_ids
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        finish = "stop" if stopped else "length"
        # greedy samples come from no distribution
        return Completion(ids, finish, text, logps if params.temperature else None)

    def close(self) -> None:
        """Shut vLLM down; it destroys torch's default process group on its way."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            gc.collect()
            shutil.rmtree(self.folder, ignore_errors=True)


def resolve_sleep(sleep: bool | str, device: torch.device) -> bool:
    """Whether to give memory back between samplings; asking for it where vLLM cannot is an
    error."""
    if sleep not in (True, False, "auto"):
        raise ValueError(f"engine.sleep must be true, false or auto, got {sleep!r}")
    if sleep is True and device.type != "cuda":
        raise ValueError(
            f"engine.sleep=true: vLLM has no sleep mode on {device.type}; use auto or false"
        )
    return device.type == "cuda" if sleep == "auto" else bool(sleep)


def check_request(
    prompts: Sequence[Sequence[int]], params: SamplingParams, max_model_len: int
) -> None:
    """Refuse what vLLM would silently change: very low temperatures, responses over its context."""
    if 0 < params.temperature < MIN_TEMPERATURE:
        raise ValueError(
            f"temperature {params.temperature}: vLLM samples at {MIN_TEMPERATURE} or above, or at 0"
        )
    longest = max(map(len, prompts), default=0) + params.max_tokens
    if longest > max_model_len:
        raise ValueError(
            f"a prompt and its response may have {longest} tokens, over engine.max_model_len={max_model_len}"
        )


def repack_heads(model: Any) -> None:
    """Make the output head follow its weight again.

    On a CPU vLLM multiplies with a packed copy. A reload packs a layer again when weights are
    loaded into it; a head tied to the embedding gets none, and would silently keep the old ones.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
