"""Engines: draw responses from the current policy.

In reading order:

    engine         the interface of an engine, its memory, and random numbers of each sample
    rollouts       one rollout batch: problems, prompts, responses
    graded_text    the text of a response as the grader reads it, with markers of reasoning
    next_token     draw the next token of each row
    caches         keep some rows of a cache, whatever its layers hold
    lean_decoder   the decoding step of a plain decoder, written out
    shared_prompts attention of rows that share what is kept of their prompt
    readers        how rows read one more token: who does it for which model
    witnesses      responses whose log-probabilities are written down while they are drawn
    transformers   sample with the training model itself
    vllm           sample with vLLM inside the trainer's processes
    colocated      what any engine needs that runs a library inside the trainer's processes
    drift          check that an engine samples from the policy that is scored and trained
"""
