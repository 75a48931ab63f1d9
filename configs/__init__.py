"""The configurations that come with jaxdiv, one study each: `jaxdiv --config=NAME`, or copied and changed.

Installed as `jaxdiv.configs`. Each has a `get_config()` that begins with `default.get_config()` and changes some of it.
"""
