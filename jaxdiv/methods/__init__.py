"""Methods: MAML, pre-training and prototypical networks as values, the loop that trains them, and their evaluation.

In: a network, a function that draws batches. Out: parameters in checkpoints, accuracy and cross-entropy of each task.
Imports `data` and `nets`. `study` may import it. So may `stats` and `report` its registry alone, which needs no JAX.
"""
