"""Methods: MAML and pre-training as a `Learner` each, the loop that trains them, and their evaluation on tasks.

In: a function that draws batches, a network. Out: parameters in checkpoints, accuracy and cross-entropy of each task.
Imports `data` and `nets`. `study` may import it.
"""
