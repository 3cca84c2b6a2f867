"""Engines: responses from the current policy.

engine         the interface, and random numbers as a function of (key, sample)
rollouts       one rollout batch: problems, prompts, responses
next_token     draw the next token of each row
transformers   sample with the training model itself
vllm           sample with vLLM in the trainer's own processes
colocated      what an engine inside the trainer's processes needs
drift          does an engine with weights of its own sample from the policy?
"""
