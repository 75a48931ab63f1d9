"""Networks and their parts: convolutions fast inside a loop, norms, the learners' networks, a linear classifier.

In: arrays and parameters. Out: Flax modules and pure functions of parameters. Knows no data set, method or probe.
Imports only the foot of the package. `probes`, `task2vec`, `methods` and `study` may import it.
"""
