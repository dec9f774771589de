"""The walk on a GPU, by Triton kernels."""
