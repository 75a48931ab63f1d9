"""Writes the logits of torchvision's own ResNets that test_resnet.py compares with. Needs torch and torchvision.

    PYTHONPATH=.:tests/probes python tests/support/make_torchvision_logits.py > tests/probes/torchvision_logits.json

The weights and images come from NumPy seeds, so only these numbers need to be kept.
"""

import json

import torch
import torchvision
from test_resnet import PROBES, logits_case

found = {}
for name in PROBES:
    tensors, images = logits_case(name)
    net = getattr(torchvision.models, name)(num_classes=7).eval()
    net.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
    with torch.no_grad():
        found[name] = net(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).tolist()
print(json.dumps({"torchvision": torchvision.__version__, **found}, indent=1))
