"""A simulated CUDA device, on which whole runs show whether their tensors are where they must be.

`make test-devices` runs the tests of this folder, in a process that has loaded a small library
before torch.
"""
