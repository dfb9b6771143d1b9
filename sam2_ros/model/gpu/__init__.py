"""Triton kernels for NVIDIA GPUs in place of PyTorch's own, and a memory attention made of them."""
