"""A training beyond one device and one memory: rates measured here, and arithmetic for what this machine is not.

`streaming`: batches read from a file that does not fit the memory, against the same number in memory, in turns.
`devices`: the epoch's code for a mesh of one device against the code without a mesh, in turns; and the bytes that a
step moves between eight devices, from XLA's program. `arithmetic`: 10⁹ images on 10⁴ devices, from these and stated
rates.
"""
