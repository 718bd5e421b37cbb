"""Each family's record fits the network: its fields are fields, and every parameter has a name."""

import pytest

from flan_jax.models.architectures import model_fields
from flan_jax.models.decoder import DecoderConfig
from flan_jax.models.families import FAMILIES
from flan_jax.models.shapes import parameter_shapes


@pytest.fixture(params=FAMILIES.values(), ids=lambda family: family.name)
def family(request):
    return request.param


def small_config(family, **fields) -> DecoderConfig:
    return DecoderConfig(
        128, 8, 2, 4, 16, 2, mlp_activations=("silu", "linear"), **{**family.fields, **fields}
    )


@pytest.mark.parametrize("form", ["hugging_face", "gguf"])
def test_every_parameter_has_a_tensor_of_its_own(family, form):
    shapes = parameter_shapes(small_config(family, logits_via_embedding=False))
    tensors = getattr(family, form)
    names = tensors.of_parameters(shapes)
    assert list(names) == list(shapes)
    assert len(set(names.values())) == len(shapes)
    layer = [name for name in names.values() if name.startswith(tensors.layer.format(1))]
    assert len(layer) == (12 if family.fields["qkv_bias"] else 9)


def test_a_decoder_is_of_one_family_at_most(family):
    fields = vars(small_config(family))
    assert family.fields.keys() <= model_fields("decoder").keys()
    assert [name for name, other in FAMILIES.items() if other.has_fields_of(fields)] == [
        family.name
    ]
    untied = {**fields, "scale_tied_logits": True, "logits_via_embedding": False}
    assert family.has_fields_of(untied)
    assert not family.has_fields_of({**fields, "scale_tied_logits": True})
    assert not family.has_fields_of({**fields, "positions": "relative"})
