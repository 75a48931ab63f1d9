"""The stages of a study, a module each: `run(spec, inputs, progress) -> Result`, which needs no workdir.

In: a spec, which is all that the result depends on besides what earlier stages found. Out: a `Result`, whose fields are
JSON values and arrays. Only `planner` and `runner` may import it.
"""
