"""Writes the meta-gradients of learn2learn that test_maml_peers.py compares with, after higher agreed with them.

    PYTHONPATH=.:tests/methods:tests/support python tests/support/make_maml_fixtures.py LEARN2LEARN \\
        > tests/methods/maml_fixtures.json

Needs torch, higher, learn2learn's unpacked sources (LEARN2LEARN is their folder, see BUILD.md), and the real images in
JAXDIV_TEST_DATA.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from test_maml_peers import NETS, ORDERS, RATE, STEPS, WAYS, arrays, summary, weights

from bench import torch_maml

found = {"torch": torch.__version__, "learn2learn": "0.2.0"}
for net, (widths, pixels, channels) in NETS.items():
    data = arrays(net, Path(os.environ["JAXDIV_TEST_DATA"]))
    found[net] = {"pixels": [data[0].sum(), data[2].sum()]}
    for order in ORDERS:
        for steps in STEPS:
            step = {}
            for peer, more in (("learn2learn", sys.argv[1:2]), ("higher", [])):
                model = torch_maml.make(net, WAYS, widths, pixels, channels, weights(net))
                how = (model, torch_maml.as_tasks(data), steps, RATE, order == "fo")
                loss, gradient = torch_maml.PEERS[peer](*how, *more)()
                step[peer] = float(loss), [g.numpy().copy() for g in gradient]
            pairs = zip(step["learn2learn"][1], step["higher"][1], strict=True)
            apart = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]
            print(net, order, steps, "learn2learn and higher differ by", max(apart), file=sys.stderr)
            assert max(apart) < 1e-10
            loss, gradient = step["learn2learn"]
            found[net][f"{order} {steps}"] = {"loss": loss, "gradient": summary(gradient)}
print(json.dumps(found, indent=None).replace("}, ", "},\n"))
