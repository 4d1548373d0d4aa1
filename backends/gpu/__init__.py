"""What backends for GPUs share: kernels in one dialect, the build, and the executor over a Device.

Each such backend brings a `device.Device`, a header that maps `kernels/dialect.h` to its language,
and the tinygrad renderer that writes row functions in it.
"""
