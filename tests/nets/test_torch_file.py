"""PyTorch's files read without PyTorch, against files that PyTorch 2.13 wrote, and files that try to run something."""

import base64
import os
import pickle
import struct
import zlib

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


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_a_foreign_object_is_refused_and_not_run(tmp_path, kind):
    marker = tmp_path / "it-ran"
    evil = pickle.dumps({"conv1.weight": Runs(marker)}, protocol=2)
    head = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    content = {"zip": zipped(evil), "legacy": head + evil, "bare": evil}[kind]
    path = write(tmp_path / "evil.pth", content)
    assert "mkdir" in refusal(path) and "refused" in refusal(path)
    assert not marker.exists()
    if kind == "bare":
        pickle.loads(content)  # the same bytes do run where a pickle is trusted
        assert marker.exists()


SIX = struct.pack("<6f", *range(6))


def test_a_file_made_here_reads_as_torchs(tmp_path):
    content = zipped(pickled_with_torch({"w": Tensor((2, 3), (3, 1))}), [("0", SIX)])
    found = read_state_dict(write(tmp_path / "net.pth", content))
    np.testing.assert_array_equal(found["w"], np.arange(6.0).reshape(2, 3))


def test_a_state_dict_that_is_all_of_a_checkpoint_is_found_in_it(tmp_path):
    content = zipped(pickled_with_torch({"model": {"w": Tensor((6,), (1,))}}), [("0", SIX)])
    np.testing.assert_array_equal(read_state_dict(write(tmp_path / "net.pth", content))["w"], np.arange(6.0))


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


def test_what_is_no_state_dict_is_refused(tmp_path):
    path = tmp_path / "net.pth"
    assert "holds a list" in refusal(write(path, zipped(pickle.dumps([1]))))
    assert "'epoch' is a int, not a tensor" in refusal(write(path, zipped(pickle.dumps({"epoch": 3}))))
    assert "no file of torch.save" in refusal(write(path, b"these are no tensors"))
    assert "no file of torch.save" in refusal(write(path, pickle.dumps(5)))
    assert "no item named 'net/data/0'" in refusal(write(path, zipped(pickled_with_torch({"w": Tensor((2,), (1,))}))))
