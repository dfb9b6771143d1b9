"""What NVIDIA GPUs are given in place of PyTorch's own kernels: Triton kernels, and a memory attention made of them."""
