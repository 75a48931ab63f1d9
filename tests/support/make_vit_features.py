"""Writes the features of ViT-S/16 in PyTorch that test_vit.py compares with. Needs torch, and timm to agree with it.

    PYTHONPATH=bench:tests/support python tests/support/make_vit_features.py > tests/probes/vit_features.json

The weights and images come from NumPy seeds, so only these numbers need to be kept.
"""

import json
import sys

import torch
from timm_tensors import SIZES, pictures, timm_tensors
from torch_vit import ViT

tensors = {name: torch.from_numpy(value) for name, value in timm_tensors().items()}
net = ViT().eval()
missing, more = net.load_state_dict(tensors, strict=False)
assert set(missing) == {"fc.weight", "fc.bias"} and set(more) == {"head.weight", "head.bias"}, (missing, more)
images = {f"{h} x {w}": torch.from_numpy(pictures(h, w).transpose(0, 3, 1, 2).copy()) for h, w in SIZES}
found = {"torch": torch.__version__}
with torch.no_grad():
    found |= {size: [round(value, 6) for value in net.features(image)[0].tolist()] for size, image in images.items()}
    try:
        import timm
    except ImportError:
        print("timm is not installed: PyTorch's modules alone", file=sys.stderr)
    else:
        theirs = timm.create_model("vit_small_patch16_224", num_classes=7, dynamic_img_size=True).eval()
        theirs.load_state_dict(tensors)
        found["timm"] = timm.__version__
        for size, image in images.items():
            pooled = theirs.forward_head(theirs.forward_features(image), pre_logits=True)[0]
            torch.testing.assert_close(pooled, torch.tensor(found[size]), rtol=1e-4, atol=1e-5)
print(json.dumps(found))
