"""Each family's record fits the network: its fields are fields, and every parameter has a name."""

import pytest

from flan_jax.models.architectures import model_fields
from flan_jax.models.decoder_config import LOCAL, DecoderConfig
from flan_jax.models.families import FAMILIES
from flan_jax.models.shapes import parameter_shapes


@pytest.fixture(params=FAMILIES.values(), ids=lambda family: family.name)
def family(request):
    return request.param


def small_config(family, **fields) -> DecoderConfig:
    # All kinds of layers that the family may have.
    pattern = family.kinds if set(family.kinds) != set(family.layer_pattern) else None
    pattern = pattern or family.layer_pattern
    return DecoderConfig(
        128,
        8,
        2,
        4,
        16,
        8,
        mlp_activations=("silu", "linear"),
        layer_pattern=pattern,
        window=4 if LOCAL in pattern else None,
        **{**family.fields, **fields},
    )


def names_of_tensors(family):
    return [family.hugging_face, *([family.gguf.names] if family.gguf else [])]


def test_every_parameter_has_a_tensor_of_its_own(family):
    shapes = parameter_shapes(small_config(family, logits_via_embedding=False))
    of_layer = [name for name in shapes if name.startswith("decoder/layers_1/")]
    for tensors in names_of_tensors(family):
        names = tensors.of_parameters(shapes)
        assert list(names) == list(shapes)
        assert len(set(names.values())) == len(shapes)
        layer = [name for name in names.values() if name.startswith(tensors.layer.format(1))]
        assert len(layer) == len(of_layer)


def test_a_decoder_is_exported_as_the_family_that_has_its_layers_and_norms(family):
    fields = vars(small_config(family))
    assert family.fields.keys() <= model_fields("decoder").keys()
    families = [name for name, other in FAMILIES.items() if other.has_fields_of(fields)]
    assert families[0] == family.name
    untied = {**fields, "scale_tied_logits": True, "logits_via_embedding": False}
    assert family.has_fields_of(untied)
    assert not family.has_fields_of({**fields, "scale_tied_logits": True})
    assert not family.has_fields_of({**fields, "positions": "relative"})
