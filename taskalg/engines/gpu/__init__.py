"""One fused launch on the GPU: Triton kernels, the tables they read, and who may run them."""
