"""Which processors compute in bfloat16."""

import pytest

from runtime import bfloat16


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("processor : 0\nflags : fpu avx2 avx512f avx512_bf16\n", True),
        ("processor : 0\nflags : fpu avx2 amx_bf16 amx_tile\n", True),
        ("processor : 0\nFeatures : fp asimd bf16 i8mm\n", True),
        ("processor : 0\nflags : fpu avx2 avx512f\n", False),
        ("processor : 0\nflags : fpu avx2\n\nprocessor : 1\nflags : avx512_bf16\n", False),
        ("", False),
    ],
)
def test_features_of_the_processor(tmp_path, monkeypatch, text, native):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(bfloat16, "PROCESSOR", tmp_path / "cpuinfo")
    assert bfloat16.has_native_bfloat16("cpu") is native


def test_a_system_that_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(bfloat16, "PROCESSOR", tmp_path / "absent")
    assert not bfloat16.has_native_bfloat16("cpu")
    assert not bfloat16.has_native_bfloat16("mps")
