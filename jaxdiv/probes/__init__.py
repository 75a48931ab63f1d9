"""Probes: pre-trained or random networks that embed tasks.

In: an architecture's name and a file of weights. Out: a `Probe`, a pytree with `features` and `layer_names`.
Imports `nets`. `task2vec` and `study` may import it.
"""
