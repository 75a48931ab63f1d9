"""The public data sets: where their archives are, in which forms people have them, and how each is read -> records on
disk (`builders`).

In: archives from `archive_dir`, or downloaded. Out: `Example`, stored as array_record. `jaxdiv.data` may import it.
"""
