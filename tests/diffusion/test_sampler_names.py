"""Samplers are found under every name people know them by."""

from __future__ import annotations

import pytest

from toile.diffusion.samplers import SAMPLERS, find_sampler
from toile.errors import ToileError


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_found_by_its_name_and_label(name: str) -> None:
    info = SAMPLERS[name]
    assert info.name == name
    assert find_sampler(name) is info
    assert find_sampler(info.label) is info
    assert find_sampler(f"  {info.label.upper()} ") is info


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("DPM++ 2M", "dpmpp_2m"),
        ("dpm++2m", "dpmpp_2m"),
        ("DPM++ 2M SDE", "dpmpp_2m_sde"),
        ("Euler a", "euler_ancestral"),
        ("euler-ancestral", "euler_ancestral"),
        ("UniPC", "unipc"),
        ("PNDM", "plms"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
        ("EulerAncestralDiscreteScheduler", "euler_ancestral"),
        ("EulerDiscreteScheduler", "euler"),
        ("PNDMScheduler", "plms"),
        ("DDIMScheduler", "ddim"),
        ("DDPMScheduler", "ddpm"),
        ("HeunDiscreteScheduler", "heun"),
        ("LMSDiscreteScheduler", "lms"),
        ("UniPCMultistepScheduler", "unipc"),
    ],
)
def test_names_of_others_are_understood(given: str, name: str) -> None:
    assert find_sampler(given) is SAMPLERS[name]
    assert find_sampler(given).spacing is None


@pytest.mark.parametrize("given", ["DPM++ 2M Karras", "dpmpp_2m_karras", "DPM++ 2M SDE Karras", "Heun Karras"])
def test_karras_in_a_name_sets_the_spacing_and_keeps_the_sampler(given: str) -> None:
    info = find_sampler(given)
    plain = find_sampler(given.lower().replace("karras", ""))
    assert info.spacing == "karras"
    assert info.function is plain.function


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(ToileError, match=r"'eulr' is unknown; did you mean euler"):
        find_sampler("eulr")
    for wrong in ("", "karras", "Ω", "xyzzy"):
        with pytest.raises(ToileError, match="known: ddim, ddpm"):
            find_sampler(wrong)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        SAMPLERS["mine"] = SAMPLERS["ddim"]  # type: ignore[index]
