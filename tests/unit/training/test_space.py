"""Where a search looks: the choices of each family, and what a spec must say to have them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import SpecError, UnknownName
from hapredict.sections import TrainingSpec, TreesSpec, TuningSpec
from hapredict.training.families import FAMILIES, find_family
from hapredict.training.space import (
    TREE_FIELDS,
    Space,
    change,
    difference,
    from_json,
    key_of,
    patch,
    space_of,
)

OWN = TrainingSpec(hidden=(48,), learning_rate=0.0007, trees=TreesSpec(depth_max=5))
BOTH = TuningSpec(families=("mlp", "trees"))


@st.composite
def searches(draw):
    """A spec, its space, and settings from it."""
    families = draw(st.lists(st.sampled_from(sorted(FAMILIES)), min_size=1, unique=True))
    own = OWN.model_copy(update={"family": draw(st.sampled_from(sorted(FAMILIES)))})
    space = space_of(own, TuningSpec(families=tuple(families)))
    family = draw(st.sampled_from(families))
    choices = {name: draw(st.sampled_from(some)) for name, some in space.families[family].items()}
    return own, space, {"family": family, **choices}


@given(searches())
def test_settings_are_in_their_space_and_make_a_spec_that_says_them(search):
    own, space, settings = search
    assert settings in space
    changed = change(own, settings)
    again = {
        name: getattr(changed.trees, name.removeprefix("trees."))
        if name in TREE_FIELDS
        else getattr(changed, name)
        for name in settings
    }
    assert again == settings


@given(searches())
def test_a_patch_laid_over_the_spec_gives_the_settings_and_says_no_more(search):
    own, _, settings = search
    found = patch(own, settings).get("training", {})
    raw = own.model_dump(mode="json")
    laid = {**raw, **found, "trees": {**raw["trees"], **found.get("trees", {})}}
    assert TrainingSpec.model_validate(laid) == change(own, settings)
    for name, value in found.items():
        if name == "trees":
            assert all(raw["trees"][field] != value[field] for field in value)
        else:
            assert raw[name] != value


@given(searches())
def test_settings_go_through_json_as_lists_and_come_back(search):
    _, _, settings = search
    lists = {name: list(v) if isinstance(v, tuple) else v for name, v in settings.items()}
    assert from_json(lists) == settings
    assert key_of(from_json(lists)) == key_of(settings)


def test_the_specs_own_settings_are_choices_among_the_familys():
    space = space_of(OWN, TuningSpec())
    assert space.own in space
    assert space.own["hidden"] == (48,)
    assert (128, 128) in space.families["mlp"]["hidden"]
    rates = space.families["mlp"]["learning_rate"]
    assert 0.0007 in rates
    assert list(rates) == sorted(rates)
    assert patch(OWN, space.own) == {}


def test_a_spec_takes_the_choices_of_single_fields_and_may_fix_them():
    tuning = TuningSpec(space={"hidden": ((32,), (64, 64)), "dropout": (0.0,)})
    fields = space_of(OWN, tuning).families["mlp"]
    assert fields["hidden"] == ((32,), (64, 64))
    assert fields["dropout"] == (0.0,)
    assert fields["weight_decay"] == find_family("mlp").space["weight_decay"]
    assert space_of(OWN, tuning).own not in space_of(OWN, tuning)


def test_fields_go_to_the_families_that_have_them():
    tuning = BOTH.model_copy(update={"space": {"epochs_max": (3,), "trees.rounds_max": (50,)}})
    families = space_of(OWN, tuning).families
    assert "epochs_max" in families["mlp"]
    assert "epochs_max" not in families["trees"]
    assert families["trees"]["trees.rounds_max"] == (50,)
    assert not any(name.startswith("trees.") for name in families["mlp"])


def test_the_size_counts_all_settings_once():
    space = Space({"mlp": {"dropout": (0.0, 0.1), "hidden": ((8,),)}, "linear": {}}, {})
    assert [key_of(settings) for settings in space] == list(dict.fromkeys(map(key_of, space)))
    assert len(list(space)) == space.size == 3
    assert all(settings in space for settings in space)


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"holdout_share": (0.1, 0.2)}, "tuning.space.holdout_share: cannot be searched; known: "),
        ({"hiden": ((8,),)}, "tuning.space.hiden: cannot be searched; known: learning_rate"),
        ({"members": (8,)}, "tuning.space.members: is no field of mlp; see tuning.families"),
        ({"trees.l2": (1,)}, "tuning.space.trees.l2: is no field of mlp; see tuning.families"),
        ({"family": ("mlp", "trees")}, "tuning.space.family: name families in tuning.families"),
        ({"dropout": ()}, "tuning.space.dropout: is empty; give at least one choice"),
        ({"dropout": (0.1, 1.5)}, "tuning.space.dropout: Input should be less than 1 (got 1.5)"),
        ({"batch_rows": ("some",)}, "tuning.space.batch_rows: "),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_by_field(space, told):
    with pytest.raises(SpecError) as refused:
        space_of(OWN, TuningSpec(space=space))
    assert told in str(refused.value)


def test_all_faults_of_a_space_are_told_at_once():
    with pytest.raises(SpecError) as refused:
        space_of(OWN, TuningSpec(space={"dropout": (2.0, 3.0), "seed": (1, 2)}))
    assert [problem.where for problem in refused.value.problems] == [
        "tuning.space.seed",
        "tuning.space.dropout",
        "tuning.space.dropout",
    ]


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(UnknownName, match="no model family 'forest'"):
        space_of(OWN, TuningSpec(families=("forest",)))


def test_a_difference_names_what_changes_and_nothing_else():
    own = space_of(OWN, TuningSpec()).own
    assert difference(own, own) == "the spec's own"
    changed = {**own, "hidden": (64, 64), "learning_rate": 0.002}
    assert difference(changed, own) == "hidden 64x64, learning_rate 0.002"
