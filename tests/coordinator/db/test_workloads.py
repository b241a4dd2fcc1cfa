"""Names of models and datasets: what they mean, and who may change that when."""

import dataclasses

import pytest

from tailfleet_coordinator.refusals import NameTaken, UnknownName
from tailfleet_schema.campaign import CampaignState
from tailfleet_schema.errors import InputError
from tailfleet_schema.workload import DatasetSpec, Preprocessing

PETS = DatasetSpec("pets", "a" * 64, 10, 30, 60, "a test", "files")


@pytest.fixture
def mine(lab):
    """A model that is judged on ``pets``, not registered yet."""
    return dataclasses.replace(
        lab.model, name="mine", pretrained=True, dataset="pets", preprocessing=Preprocessing([0.5], [0.5])
    )


def test_a_name_is_claimed_once_and_changed_on_demand(lab, mine):
    lab.store.add_dataset(PETS)
    assert lab.store.add_model(mine)
    assert not lab.store.add_model(mine)
    other = dataclasses.replace(mine, arguments={"depth": 4})
    with pytest.raises(NameTaken, match="another model is called 'mine'"):
        lab.store.add_model(other)
    assert lab.store.get_model("mine") == mine
    assert lab.store.add_model(other, replace=True)
    assert lab.store.get_model("mine") == other


def test_images_must_be_known_and_of_classes_that_the_model_knows(lab, mine):
    with pytest.raises(UnknownName, match="no dataset is called 'pets'"):
        lab.store.add_model(mine)
    lab.store.add_dataset(dataclasses.replace(PETS, classes=11))
    with pytest.raises(InputError, match="11 classes"):
        lab.store.add_model(mine)
    assert [model.name for model in lab.store.list_models()] == ["tiny"]


def test_the_same_images_keep_their_entry_wherever_they_lay(lab):
    assert lab.store.add_dataset(PETS)
    assert not lab.store.add_dataset(dataclasses.replace(PETS, source="elsewhere"))
    assert lab.store.get_dataset("pets") == PETS
    with pytest.raises(NameTaken):
        lab.store.add_dataset(dataclasses.replace(PETS, pack_sha256="b" * 64))


def test_what_a_running_campaign_uses_stays(lab, mine):
    lab.board("nano")
    lab.store.add_dataset(PETS)
    lab.store.add_model(mine)
    lab.campaign("c1", "nano", models=["mine"])
    with pytest.raises(NameTaken, match="running campaign c1 uses model 'mine'"):
        lab.store.add_model(dataclasses.replace(mine, arguments={"depth": 4}), replace=True)
    other = dataclasses.replace(PETS, sha256="b" * 64)
    with pytest.raises(NameTaken, match="running campaign c1 uses model 'mine'"):
        lab.store.add_dataset(other, replace=True)
    assert not lab.store.add_model(mine, replace=True)
    lab.store.end_campaign("c1", CampaignState.CANCELLED)
    assert lab.store.add_dataset(other, replace=True)
    assert lab.store.add_model(dataclasses.replace(mine, arguments={"depth": 4}), replace=True)


def test_of_many_who_claim_a_name_one_has_it(lab, mine, together):
    """Each brings another model; the others are told so, whichever was first."""
    lab.store.add_dataset(PETS)
    models = [dataclasses.replace(mine, arguments={"depth": number}) for number in range(1, 9)]
    told = together(*(lambda model=model: lab.store.add_model(model) for model in models))
    assert [outcome for outcome in told if not isinstance(outcome, NameTaken)] == [True]
    assert lab.store.get_model("mine") == models[told.index(True)]


def test_a_model_and_its_images_do_not_change_under_each_other(lab, mine, together):
    """Whoever comes second is judged by what the first one stored."""
    more = dataclasses.replace(PETS, sha256="b" * 64, classes=11)
    for _ in range(5):
        lab.store.put_dataset(PETS)
        lab.sql("DELETE FROM models WHERE name = 'mine'")
        told = together(lambda: lab.store.add_model(mine), lambda: lab.store.add_dataset(more, replace=True))
        assert sum(isinstance(outcome, InputError) for outcome in told) == 1, told
