"""A study: its configuration (`config`), its units of work (`planner`, `stages`), and running them (`runner`), here or
elsewhere (`driver`, `launchers`, `worker`).

In: a ConfigDict and a workdir. Out: a folder for each unit and its settings, and the report. Imports everything below.
Only the command (`cli`) may import it.
"""
