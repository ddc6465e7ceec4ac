"""An accelerator in one call: numerics, epochs, chains, and trainings that go on.

A lent device is used from its first minute: the report is written after every part, so that a call that is cut off has
told what it found, and the trainings go on from their last checkpoints in the next call.
"""
