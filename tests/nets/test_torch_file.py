"""PyTorch's files read without PyTorch, against files that PyTorch 2.13 wrote, and files that try to run something."""

import argparse
import base64
import datetime
import io
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
from torch_files import Tensor, pickled_with_torch, zipped

from jaxdiv.errors import InputError
from jaxdiv.nets.torch_file import read_state_dict

# torch.save of an OrderedDict: base = arange(24).reshape(4, 6), a = base[1:3, ::2], t = base.t()[:2], shared = base,
# h = float16 [1.5, -2], b = bfloat16 [3.25], n = int64 7, p = a Parameter [[0.5]], e = zeros(0, 3); zlib, base 85.
ZIP = (
    "c-o~_O>Y}j6n*~4*to$?(m>h(AuR<QXdQo!<0eg<p$wG<31<)}^2V9i)7WBS`;K42$I1d?$^wZ+CAvc0l_fh^q5gtOtyETBAhAHKkN}AV65_"
    "r$@pNWV#|6LScw+0GbI*P6z8ja6K#-7dm>gLXWQu5Jwcgm*7i${T67Ba4S&EXfYjyqAYRfS6Ds8lyoyc2eO*i%0<wli8fGnusi*Nc+Oap(Fw"
    "oolm*`p1k6RDW`_FluNRjA(Vw9LwWIs$=sd^3c>9gNg=bO>6Mh-|bp`nL691je{v5`@hFKCA6L2q~v1gf|pH@hgEIJi-3xLFDr~GjM{!xC&2"
    "l5`}0TlhlLtvAR&_wAhA1kQVI0gyK_#9!y%aDGDc5nBEkapSp%M!BbxD(~KKrq!~=<>%l3Ddz!+m3eWJAb$HgI9oBM1Gp^dDJjX*)Fo$}63e"
    "R&d2QaVr4&aQXb(X>lDxBki+wh`GOX3@o5^cSgcvu=<Mm-;eIMYL^1@`iarS~d@^D126flWxb^xkYWcWkXi9+H8irIkXhg#}9^O(CN~mIt&U"
    "H{f8~nyKyTR5v3a_IHj`vXHklm$*N+aRuvf(b8Y0u%g1HYy8dXXRxM1ku!BzcPZsSLM1%b*O(GvhkscKFs0WmC7Hq-DqPu1l$22TpFd)7%TE"
    "YHX<*yWkZHT^6IWa2u0|{Sy4k_@mZb?#_m|5lru^M+4?baj7zQiPlKeyE!yd0_Mq{VBt2e1EWsZnH#uBs4z}oxpD^^AP#~PR<Yqo*y52@Z_m"
    "sOUQ|4-ijG8&W`I`eRF>F3kzwg|_1h>}&;R9Q^Q(!~)BSgPGMd@15DqKmkRxQ+M;LDq4WA?6WDL=jO!Y$4i+F5(*EOT-PtO~f~dZxP?Gv&ue"
    "Rf6&}Qp{*g6opV=~lBM~fmEm^WW;w+B_phTc2@c6obmvIR(#j~uS1uJ<_T}ggUkvY`D3RRRGqSWgQucB=bg0c-w151i#nOg{xL9$!$jZ_Z8K"
    "HmHSne~wpZ&_c|KxG@KR5FJ53DmrPTINb0TlBl%S4#_yI=3TGyMGKNc!Ob;`Teb*}w_(k;eXeR~j{0O8m!aQfYB1C+0H+u^?vgCoQH@$$S<+"
    "Nr{DgA(KmH#biE{WG?S~dgsqL`iOIvK4#YT=^V}zN1S`Vhj`h}0X*Yk{^ciw#<^F-IYeh&A{zm6%;fg!I0xaROXr?L#~#35x^vn@UG#T@#4|"
    "g+T;~*VbCY8pZpzDb&Hy*}x|f^wa-BEV&7BfF+>Dp&ym@Z!4KFv_=RW#wI@ff_!_9f~I`2%(#qBz{1A4{T%5&~Bc90)^$x4bKobO-Bzy+H*?"
    "s@)gl}bJc_eZ3_r)B4a_1^lnF(z1?aUO5Q{tKkKm=6"
)
LEGACY = (
    "c-noFIdjuM7=~9z91sM;op6TR<}ki3b0kg(As~)KG-?>3$V((fNdBaCW?&{WZejuzB?U#wl$4bDDYX0qW+?bpG9hLJJ9<~E)#`a)eOh(J4~q"
    "Bm^W2Y#SDOpt`L6i*yM+BJkgPFE2x*4_3+%u%S7;cyfe!*MFh=l>=Q8F|llm>!@<CiT6r5yl+SH8Pw=@E2738cjgp-jIgbao>(U9=U^%-O|*"
    "^oIS@Rwm&lRF*sw9&?+Hba+4c^bB8NL#b6%@iOx9fYhQ;1d>zHVZ=A$(tSKdXZv=bgAQdEt63{3PN+Gq=1yo8pGTeS6a&y<m3@$&I>H|ESXe"
    "b$k>N#8fCR!tu)GwTCq_oKqk&;w>ubX><NQii&{n#HK_-?`Je~Ndxyu_!(gutBXK4M`y8}%WG5B5-$_uTiyA?c+=By}pk;b+FhLz+a9D>UMk"
    "X$mg>MZ<|HnJl=Z$fm%t7NAP3Xb#gm;3$NgYnb(HuCPp!yY<x4f6z1vs;VUZ|^TQLWZs0_h^s&&Fxj;G8C`!TE%Ifx$%`F2&>}xI93fiHlpT"
    "ZPT-Z+3V$Uu>?7!3rN4h=?K2cyK4#kI)l6pH)6UEg#r2_+$h`R;@{*(wFIR;xs2poE+JMJRCTDu#5UCbv2of~XuYP4h6<?Zbyo{zwE~U4!_7"
    "E5FZiwGbUSgo!(dW}srC4x`3|Oan2D_^+)d}!D}`DGW|2#fdyjJo-)eK3#JTqq?mUABIy~gR$aDT%rhGIZZJ&r~A3#d0otzdcwFViQ7fHWOl"
    "C3eavvsGiYvO_GqBc-lsBb7TO~@!}0#!gYQ46RSs5YvLT1S0EeL`)ZHc?+tU#Eq>!$R}-XqXH(;m>gD7pD^@#s"
)


def saved(text):
    return zlib.decompress(base64.b85decode(text))


def write(path, content):
    path.write_bytes(content)
    return path


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert path.name in message and "\n" not in message
    return message


@pytest.mark.parametrize("text", [ZIP, LEGACY], ids=["zip", "before 1.6"])
def test_tensors_are_pytorchs(tmp_path, text):
    found = read_state_dict(write(tmp_path / "net.pth", saved(text)))
    base = np.arange(24.0).reshape(4, 6)
    assert list(found) == ["a", "t", "shared", "h", "b", "n", "p", "e"]
    np.testing.assert_array_equal(found["a"], base[1:3, ::2])
    np.testing.assert_array_equal(found["t"], base.T[:2])
    np.testing.assert_array_equal(found["shared"], base)
    np.testing.assert_array_equal(found["h"], np.array([1.5, -2], np.float16))
    assert float(found["b"][0]) == 3.25 and found["b"].dtype.name == "bfloat16"
    assert found["n"] == 7 and found["n"].dtype == np.int64 and found["p"] == [[0.5]] and found["e"].shape == (0, 3)
    assert found["a"].dtype == np.float32


@pytest.mark.parametrize("text", [ZIP, LEGACY], ids=["zip", "before 1.6"])
def test_a_file_cut_anywhere_is_refused(tmp_path, text):
    whole = saved(text)
    for kept in (0, 1, 10, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        assert "truncated" in refusal(write(tmp_path / "cut.pth", whole[:kept]))


class Runs:
    """A pickle that runs a command when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


HEAD = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))  # before 1.6


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_a_foreign_object_is_not_run_and_without_tensors_named(tmp_path, kind):
    marker = tmp_path / "it-ran"
    evil = pickle.dumps({"conv1.weight": Runs(marker)}, protocol=2)
    content = {"zip": zipped(evil), "legacy": HEAD + evil + pickle.dumps([]), "bare": evil}[kind]
    path = write(tmp_path / "evil.pth", content)
    says = "no file of torch.save" if kind == "bare" else f"'conv1.weight' ({os.mkdir.__module__}.mkdir, not run)"
    assert says in refusal(path)
    assert not marker.exists()
    if kind == "bare":
        pickle.loads(content)  # the same bytes do run where a pickle is trusted
        assert marker.exists()


SIX = struct.pack("<6f", *range(6))


def test_a_file_made_here_reads_as_torchs(tmp_path):
    content = zipped(pickled_with_torch({"w": Tensor((2, 3), (3, 1))}), [("0", SIX)])
    found = read_state_dict(write(tmp_path / "net.pth", content))
    np.testing.assert_array_equal(found["w"], np.arange(6.0).reshape(2, 3))


W = Tensor((6,), (1,))


class Custom:
    """A class that only the writer of a file has."""

    def __init__(self, **parts):
        self.__dict__.update(parts)


def layer(**tensors):
    return Custom(training=True, _parameters=OrderedDict(tensors), _buffers=OrderedDict(), _modules=OrderedDict())


def test_a_training_checkpoint_gives_its_tensors_by_name_and_runs_nothing(tmp_path):
    marker = tmp_path / "it-ran"
    checkpoint = {
        "epoch": 3,
        "args": argparse.Namespace(arch="resnet18", when=datetime.date(2026, 1, 2), path=Path("x")),
        "model": OrderedDict({"w": W}),
        "optimizer": {"state": {0: {"momentum_buffer": W}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "best": Runs(marker),
        "counts": Counter("aab"),
        "seen": {1, 2},
        "rng": random.Random(0).getstate(),
        "state_dict": {"module.encoder_q.w": W, "scale": 2.0, "none": None},
    }
    content = zipped(pickled_with_torch(checkpoint), [("0", SIX)])
    found = read_state_dict(write(tmp_path / "net.pth.tar", content))
    assert list(found) == ["model.w", "state_dict.module.encoder_q.w"]
    for value in found.values():
        np.testing.assert_array_equal(value, np.arange(6.0))
    assert not marker.exists()


def test_a_whole_module_gives_its_parameters_by_its_modules_names(tmp_path):
    net = Custom(_parameters={}, _buffers={}, _modules=OrderedDict({"conv1": layer(weight=W), "fc": layer(bias=W)}))
    content = zipped(pickled_with_torch(net), [("0", SIX)])
    assert list(read_state_dict(write(tmp_path / "net.pt", content))) == ["conv1.weight", "fc.bias"]


def test_a_checkpoint_before_1_6_skips_the_storages_that_are_not_asked_for(tmp_path):
    # The optimizer's storage "1" comes first in the file.
    parts = [{"model": {"w": W}, "optimizer": {0: Tensor((2,), (1,), 2, key="1")}}, ["1", "0"]]
    stored = struct.pack("<q2f", 2, 8, 9) + struct.pack("<q", 6) + SIX
    path = write(tmp_path / "net.pth", HEAD + b"".join(map(pickled_with_torch, parts)) + stored)
    found = read_state_dict(path)
    assert list(found) == ["model.w"]
    np.testing.assert_array_equal(found["model.w"], np.arange(6.0))


def setting(module, name, state):
    """A pickle that sets the state of what stands for a name."""
    return b"\x80\x02c%s\n%s\n" % (module.encode(), name.encode()) + pickle.dumps(state, 2)[2:-1] + b"b."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "FloatStorage"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("collections", "OrderedDict"),
        ("posix", "system"),
    ],
)
@pytest.mark.parametrize(
    "state",
    [
        (3, ">", None, None, None, -1, -1, 0),  # NumPy's own of a dtype: big-endian from then on
        (None, {"__defaults__": (1,), "__call__": 1, "__class__": 2}),
        {"items": 1, "_named": 2},
    ],
)
def test_a_pickle_changes_nothing_outside_of_itself(tmp_path, module, name, state):
    assert refusal(write(tmp_path / "evil.pth", zipped(setting(module, name, state))))
    content = zipped(pickled_with_torch({"w": Tensor((2, 3), (3, 1))}), [("0", SIX)])
    found = read_state_dict(write(tmp_path / "net.pth", content))
    np.testing.assert_array_equal(found["w"], np.arange(6.0).reshape(2, 3))
    assert np.dtype(np.float32).byteorder == "=" and vars(OrderedDict).get("items") is OrderedDict.items


# Files that would take more memory than they have bytes


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("net/data.pkl", pickled_with_torch({"w": Tensor((2**22,), (1,), 2**22)}))
        archive.writestr("net/data/0", bytes(2**24))
    assert "is compressed, as torch.save never does" in refusal(path)


def test_a_storage_larger_than_its_tensors_say_is_refused(tmp_path):
    content = zipped(pickled_with_torch({"w": W}), [("0", SIX + bytes(4))])
    assert "has 28 bytes, more than the 24 that it may" in refusal(write(tmp_path / "net.pth", content))


def test_tensors_larger_than_their_file_are_refused(tmp_path):
    content = zipped(pickled_with_torch({"w": Tensor((10**9,), (1,), 10**9)}), [("0", SIX)])
    assert "its tensors have 4000000000 bytes, the file" in refusal(write(tmp_path / "net.pth", content))


def test_one_storage_shown_again_and_again_is_refused(tmp_path):
    tensors = {str(i): W for i in range(5)}
    content = zipped(pickled_with_torch(tensors), [("0", SIX)])
    assert "its tensors show 24 bytes as 120: refused" in refusal(write(tmp_path / "net.pth", content))
    del tensors["4"]
    assert len(read_state_dict(write(tmp_path / "net.pth", zipped(pickled_with_torch(tensors), [("0", SIX)])))) == 4


@pytest.mark.parametrize(
    "put", [b"r\xff\xff\xff\xff", b"p4000000000\n", b"q\xff"], ids=["LONG_BINPUT", "PUT", "BINPUT"]
)
def test_a_pickle_of_ten_bytes_that_asks_for_gigabytes_is_refused(tmp_path, put):
    assert "asks for memory" in refusal(write(tmp_path / "net.pth", zipped(b"\x80\x02}" + put + b".")))


def test_a_pickle_that_holds_itself_and_one_that_doubles_itself_end(tmp_path):
    inner = {"w": W}
    inner["again"] = inner
    content = zipped(pickled_with_torch(inner), [("0", SIX)])
    assert list(read_state_dict(write(tmp_path / "net.pth", content))) == ["w"]
    doubled = {"w": W}
    for _ in range(30):  # 2^30 ways to w
        doubled = {"a": doubled, "b": doubled}
    content = zipped(pickled_with_torch(doubled), [("0", SIX)])
    assert list(read_state_dict(write(tmp_path / "net.pth", content))) == [".".join("a" * 30 + "w")]


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (Tensor((3, 3), (3, 1)), "w is outside"),
        (Tensor((2,), (1,), offset=5), "w is outside"),
        (Tensor((2,), (-1,), offset=3), "w is outside"),
        (Tensor((10**9,), (0,)), "w is outside"),
        (Tensor((2,), (1,), numel=7), "truncated: w has 24 of 28 bytes"),
    ],
    ids=["too large", "too far", "backwards", "a number repeated without end", "short storage"],
)
def test_a_tensor_that_is_not_in_its_storage_is_refused(tmp_path, tensor, says):
    content = zipped(pickled_with_torch({"w": tensor}), [("0", SIX)])
    assert says in refusal(write(tmp_path / "net.pth", content))


def npz():
    out = io.BytesIO()
    np.savez(out, x=np.zeros(3))
    return out.getvalue()


def test_what_is_no_state_dict_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    assert "holds a list" in refusal(write(path, zipped(pickle.dumps([1]))))
    assert "it holds 'epoch' (int), and no tensors" in refusal(write(path, zipped(pickle.dumps({"epoch": 3}))))
    assert "a zip archive of x.npy, without the data.pkl" in refusal(write(path, npz()))
    assert "no file of torch.save" in refusal(write(path, b"these are no tensors"))
    assert "no file of torch.save" in refusal(write(path, pickle.dumps(5)))
    assert "no item named 'net/data/0'" in refusal(write(path, zipped(pickled_with_torch({"w": Tensor((2,), (1,))}))))
