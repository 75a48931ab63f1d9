"""Probes: pre-trained or random networks that embed tasks.

In: an architecture's name and a file of weights, or any network of the caller's. Out: a `Probe`, a pytree with
`features`, a `fisher` of its own and `layer_names`. A probe is one new file and one line in `registry.py`.
Imports `nets`. `task2vec` and `study` may import it.
"""
