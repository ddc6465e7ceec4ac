"""Convolutions as matrix products on a CPU, against XLA's: `python -m experiments.bench_convolutions`.

For the convolutional presets, the steps of a training epoch, as `training.make_epoch` runs them, in one program, once
with XLA's convolutions and once as matrix products (`hmcvae/_convolutions.py`); and the least that a step of the VAE
could take: its matrix products alone, forwards and backwards, with none of the copying that makes their operands. CPU
seconds of all threads, which leave out when other programs held the cores; in turns, the least of the rounds.
"""
