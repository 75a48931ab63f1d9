"""A study: its configuration, its units of work, running them and showing how they go.

In: a ConfigDict and a workdir. Out: a folder for each unit, and the report. Imports everything below.
Only the command (`cli`) may import it.
"""
