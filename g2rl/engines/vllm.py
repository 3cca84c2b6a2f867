"""Sample with vLLM in the trainer's own processes. All calls of vLLM are in this file.

There is one engine a rank, or one for each tensor-parallel group of ranks. It holds its own copy of
the weights, which is replaced after every update, see `VllmEngine.push_weights`. docs/engines.md
says what was run where, and with which versions.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from g2rl.engines import colocated
from g2rl.engines.drift import (
    PROBE,
    SAMPLES,
    TOLERANCE,
    Drift,
    drift_metrics,
    measure_drift,
    probe_prompts,
    refuse_drift,
)
from g2rl.engines.engine import Key, SamplerMemory, seed_of
from g2rl.hub import missing_package
from g2rl.policy.anatomy import text_config
from g2rl.policy.lora import has_lora
from g2rl.policy.policy import Policy
from g2rl.policy.weights import has_experts
from g2rl.types import Completion, SamplingParams, Tokenizer

log = logging.getLogger(__name__)
TESTED = ">=0.32,<0.33"
"""Versions of vLLM that this adapter was tried with."""
IN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
"""Environment variables without which every weight push would warn of layers without weights."""
MIN_TEMPERATURE = 0.01
"""vLLM silently raises lower temperatures, other than 0, to this one."""
ALWAYS: Mapping[str, Any] = {
    "skip_tokenizer_init": True,  # prompts go in as token ids, and responses come out as such
    "generation_config": "vllm",  # the model's own file might change how samples are drawn
    "load_format": "dummy",  # the first push brings the weights; nothing is sampled before
    "logprobs_mode": "processed_logprobs",  # after temperature and truncation
    "enable_prefix_caching": True,  # a prompt is read once for its whole group
}
"""Arguments of `vllm.LLM` that no setting changes."""


def import_vllm() -> Any:
    """Import the vllm module, set up to run inside this process and without its log.

    Raises:
        ImportError: vLLM is missing, or cannot be imported.
        RuntimeError: its version was not tried with this adapter, or the environment asks for
            another process.
    """
    # vLLM reads these variables when it is imported
    if os.environ.setdefault(IN_PROCESS, "0") != "0":
        raise RuntimeError(
            f"engine=vllm pushes weights in process: unset {IN_PROCESS}, or set it to 0"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)

    # and logs before it has read them
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())

    try:
        import vllm
    except ImportError as error:
        raise ImportError(
            f"{missing_package('engine=vllm', f'vllm{TESTED}', 'vllm')} on a machine with GPUs, "
            f"`make test-vllm` shows how on a CPU; engine=transformers needs neither ({error})"
        ) from error
    check_version(getattr(vllm, "__version__", "unknown"))
    return vllm


def check_version(version: str) -> None:
    """Refuse a version of vLLM that was not tried: its weight push might silently do nothing.

    Raises:
        RuntimeError: naming the version and the range.
    """
    # what is no version at all was not tried either
    try:
        tried = SpecifierSet(TESTED).contains(Version(version), prereleases=True)
    except InvalidVersion:
        tried = False
    if not tried:
        raise RuntimeError(
            f"engine=vllm was tried with vLLM {TESTED}, installed is {version}: pip install "
            f"'vllm{TESTED}'"
        )


def warn_of_rounded_adapters(policy: Policy, dtype: str | None) -> None:
    """Warn where an engine loses most of what adapters learn in one update."""
    # small updates are less than one rounding of the merged weight
    if has_lora(policy.model) and dtype == "bfloat16":
        log.warning(
            "engine=vllm in bfloat16 merges adapters into its weights and rounds most of a "
            "small update away: it samples from an older policy than is trained, see "
            "update/sampler_kl; engine.dtype=float32 or engine=transformers does not"
        )


class VllmEngine:
    """Sample with vLLM, on the same devices as the trainer and in its processes.

    Args:
        policy: the training policy, whose weights are pushed into the engine.
        tokenizer: decodes the response text.
        stop_ids: token ids that end a response.
        max_rows: responses decoded at once.
        max_model_len: tokens of prompt and response together; None: as many as the model has
            positions.
        dtype: float32 or bfloat16; None: what the policy computes in.
        tensor_parallel: ranks that share one engine; needs torch.distributed.
        gpu_memory_utilization: share of the device's memory for vLLM, if `kv_cache_mb` is None.
        kv_cache_mb: memory of the KV cache in MiB.
        enforce_eager: use neither CUDA graphs nor compilation.
        block_size: tokens of one block of the KV cache; None: vLLM's choice.
        sleep: give the device memory back between samplings; "auto": on GPUs only, because vLLM
            cannot on a CPU.
        drift_every: compare log-probabilities with the policy's at the first push, and at each
            `drift_every`-th after it; 0: at the first only.
        drift_tolerance: limit in nats, of the largest difference in float32 and of the mean
            difference in bfloat16; None: `drift.TOLERANCE`.
        options: further arguments of `vllm.LLM`.

    Raises:
        ImportError: vLLM is missing.
        RuntimeError: this version of vLLM was not tried, or there are several ranks but
            torch.distributed is not initialised.
        ValueError: a setting does not fit the others or the machine.
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
        self.policy, self.tokenizer, self.stop_ids = policy, tokenizer, list(stop_ids)
        self.sleeps = resolve_sleep(sleep, policy.device)
        self.drift_every = drift_every
        dtype, self.compared_in = colocated.resolve_dtype(dtype, policy)
        refuse_rough_experts(policy, self.compared_in)
        warn_of_rounded_adapters(policy, dtype)
        self.tolerance = TOLERANCE[self.compared_in] if drift_tolerance is None else drift_tolerance

        # the settings in vLLM's words
        self.vllm = import_vllm()
        self.team = colocated.tensor_parallel_group(tensor_parallel)
        arguments: dict[str, Any] = {
            **ALWAYS,
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel,
            "max_num_seqs": max_rows,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": gpu_memory_utilization,
            # None: what gpu_memory_utilization leaves beside the weights
            "kv_cache_memory_bytes": None if kv_cache_mb is None else kv_cache_mb << 20,
            "enforce_eager": enforce_eager,
            "enable_sleep_mode": self.sleeps,
        }

        # left out, these are vLLM's choice
        if block_size is not None:
            arguments["block_size"] = block_size
        if colocated.world_size() > 1:
            arguments["distributed_executor_backend"] = "external_launcher"
        add_options(arguments, options or {})

        # the folder goes with the engine, also where an error ends this constructor or the command
        self.folder = tempfile.mkdtemp(prefix="g2rl-engine-")
        self.remove_folder = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

        # build the engine; its weights come with the first push
        colocated.export_config(policy.model, self.folder)
        with colocated.random_state_kept(policy.device):
            self.llm = self.vllm.LLM(self.folder, **arguments)
        self.max_model_len: int = self.llm.llm_engine.vllm_config.model_config.max_model_len

        # what is known of it before and after a push
        self.probe = self.make_probe()
        self.pushes, self.asleep = 0, False
        self.drift: Drift | None = None
        """What the check of the latest push measured; None if that push was not checked."""

    @staticmethod
    def sampler_memory(settings: Mapping[str, Any]) -> SamplerMemory:
        """See `Engine.sampler_memory`: vLLM reserves its share of the device, or its KV cache."""
        return SamplerMemory(
            max_rows=settings.get("max_rows", 256),
            device_share=settings.get("gpu_memory_utilization", 0.4),
            kv_cache_mb=settings.get("kv_cache_mb"),
            sleeps=settings.get("sleep", "auto") is not False,
        )

    def make_probe(self) -> list[list[int]]:
        """The prompts of the drift check.

        Raises:
            ValueError: the engine's context has no room for a prompt and its response.
        """
        # only whole blocks are cached: a stale prefix shows in prompts of more than two blocks
        block_size = self.llm.llm_engine.vllm_config.cache_config.block_size
        length = min(2 * block_size + 8, self.max_model_len - PROBE.max_tokens)
        if length < 1:
            raise ValueError(
                f"engine.max_model_len={self.max_model_len}: must be over {PROBE.max_tokens}"
            )
        return probe_prompts(text_config(self.policy.model.config).vocab_size, length)

    def push_weights(self) -> None:
        """Replace vLLM's weights by the policy's, and check that they arrived.

        An engine that sleeps gets the memory for its KV cache back only after the weights are
        there, so that the transfer can use that memory.

        Raises:
            DriftError: vLLM does not report the policy's log-probabilities.
            RuntimeError: requests are still running, or vLLM did not wake up.
        """
        # the weights
        if self.asleep:
            self.llm.wake_up(tags=["weights"])
        self.llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": self.policy.weights()}
        )
        if self.policy.device.type == "cpu":
            self.llm.apply_model(repack_heads)

        # the KV cache, whose prefixes were computed with the old weights
        if self.asleep and not self.llm.wake_up(tags=["kv_cache"]):
            raise RuntimeError("engine=vllm: vLLM did not wake up after a weight push")
        self.asleep = False
        self.drop_prefixes()

        # a push that went wrong raises no error by itself
        self.pushes += 1
        self.drift = None
        if self.pushes == 1 or (self.drift_every and (self.pushes - 1) % self.drift_every == 0):
            self.check_drift()

    def metrics(self) -> dict[str, float]:
        """See `Engine.metrics`."""
        return drift_metrics(self.drift, self.tolerance, self.compared_in)

    def drop_prefixes(self) -> None:
        """Empty the prefix cache, which was computed with earlier weights.

        Raises:
            RuntimeError: requests are still running.
        """
        if not self.llm.reset_prefix_cache():
            raise RuntimeError(
                "engine=vllm: the prefix cache cannot be dropped while requests are running"
            )

    def check_drift(self) -> None:
        """Sample probe responses and compare their log-probabilities with the policy's.

        Raises:
            DriftError: the difference is over the tolerance.
        """
        # the same seeds at every check; no stop ids, so that all responses have full length
        keys = [(p,) for p in range(len(self.probe))]
        groups = self.sample(self.probe, keys, SAMPLES, PROBE, stop_ids=[])
        self.drift = measure_drift(self.policy, self.probe, groups, PROBE.temperature)
        log.info(
            "weight push %d: vLLM's log-probs differ from the trainer's by %s",
            self.pushes,
            self.drift,
        )
        name = f"vLLM {self.vllm.__version__}"
        refuse_drift(self.drift, self.tolerance, self.compared_in, name, self.pushes)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Engine.generate`.

        All ranks of a tensor-parallel group must call it together, with equal settings.

        Raises:
            RuntimeError: no weights were pushed yet.
            ValueError: vLLM would silently change the temperature or a length.
        """
        if not self.pushes:
            raise RuntimeError("engine=vllm has no weights before the first push_weights()")
        check_request(prompts, params, self.max_model_len)

        # the KV cache is not kept in sleep
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False
            self.drop_prefixes()

        # the ranks of a team sample the prompts of all of them, and each keeps its own
        before, all_prompts, all_keys = colocated.gather_requests(self.team, prompts, keys)
        if self.team is None:
            groups = self.sample(all_prompts, all_keys, samples, params, self.stop_ids, on_progress)
        else:
            groups = self.sample(all_prompts, all_keys, samples, params, self.stop_ids)
            # while sampling, nobody knows whose prompts the finished responses answer
            if on_progress:
                on_progress(len(prompts) * samples)

        # weights move to the host, the KV cache is dropped
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
        """Draw `samples` completions of each prompt.

        Every sample is a request of its own with a seed of its own, so that it does not depend on
        the rest of the batch.
        """
        token_prompts: list[Any] = []
        requests: list[Any] = []
        for prompt, key in zip(prompts, keys, strict=True):
            for sample in range(samples):
                token_prompts.append(self.vllm.TokensPrompt(prompt_token_ids=list(prompt)))
                requests.append(self._request(params, seed_of(key, sample), stop_ids))

        bar = colocated.progress_bar(on_progress) if on_progress else False
        outputs = self.llm.generate(token_prompts, requests, use_tqdm=bar)

        # outputs come in the order of the requests
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
            ignore_eos=True,  # the stop ids alone decide
            detokenize=False,  # texts are decoded with the trainer's tokenizer
            logprobs=0,  # of the sampled token, and of no others
            flat_logprobs=True,  # plain lists, no object for each token
        )

    def completion(
        self, output: Any, params: SamplingParams, stop_ids: Sequence[int]
    ) -> Completion:
        """A completion from vLLM's output.

        Raises:
            RuntimeError: it ended for another reason than a stop token or the limit, or its
                log-probabilities do not fit its tokens.
        """
        token_ids, logps = list(output.token_ids), list(output.logprobs.logprobs)
        if output.finish_reason not in ("stop", "length") or len(logps) != len(token_ids):
            raise RuntimeError(
                f"engine=vllm: a response of {len(token_ids)} tokens with {len(logps)} log-probs "
                f"ended by {output.finish_reason}"
            )

        finish = "length"
        if token_ids and token_ids[-1] in stop_ids:
            finish = "stop"
        text = self.tokenizer.decode(token_ids, skip_special_tokens=True)

        # greedy samples are drawn from no distribution
        return Completion(token_ids, finish, text, logps if params.temperature else None)

    def close(self) -> None:
        """Shut vLLM down, which also destroys torch's default process group."""
        # may be called twice: by the run, and where an error ends it
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            gc.collect()
            self.remove_folder()


def add_options(arguments: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Add the free options to the arguments of `vllm.LLM`.

    Raises:
        ValueError: an option would replace an argument that g2rl sets.
    """
    taken = sorted(set(arguments) & set(options))
    if taken:
        raise ValueError(f"engine.options.{taken[0]} is set by g2rl; use engine's own settings")
    arguments.update(options)


def refuse_rough_experts(policy: Policy, compared_in: str) -> None:
    """Refuse a mixture of experts where the drift check could not see one expert go astray.

    A token passes through few experts, so that weights which did not arrive in one of them move the
    mean by some hundredths of a nat, as much as rounding to bfloat16 does.

    Args:
        policy: the training policy.
        compared_in: dtype of the drift check.

    Raises:
        ValueError: naming the model and what to use instead.
    """
    if compared_in == "float32" or not has_experts(policy.model):
        return
    raise ValueError(
        f"engine=vllm with {type(policy.model).__name__} in bfloat16: the drift check cannot tell "
        "an expert whose weights did not arrive from rounding; use engine=transformers, or "
        "float32 on both sides (engine.dtype=float32, model.compute_dtype=null)"
    )


def resolve_sleep(sleep: bool | str, device: torch.device) -> bool:
    """Whether the engine gives memory back between samplings.

    Raises:
        ValueError: `sleep` is true on a device where vLLM cannot sleep, or is no known value.
    """
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
    """Refuse what vLLM would silently change.

    Raises:
        ValueError: the temperature is very low but not 0, or a prompt and its response may exceed
            the engine's context of `max_model_len` tokens.
    """
    if 0 < params.temperature < MIN_TEMPERATURE:
        raise ValueError(
            f"temperature {params.temperature}: vLLM samples at {MIN_TEMPERATURE} or above, or at 0"
        )
    # vLLM would cut the response at the end of its context
    longest = max(map(len, prompts), default=0) + params.max_tokens
    if longest > max_model_len:
        raise ValueError(
            f"a prompt and its response may have {longest} tokens, over "
            f"engine.max_model_len={max_model_len}"
        )


def repack_heads(model: Any) -> None:
    """Pack the weights of vLLM's output heads again; needed on CPUs, where packed copies are used.

    A reload packs a layer again when weights are loaded into it. A head that is tied to the
    embedding gets no weights of its own, so it would silently keep its old copy.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
