"""Evaluation mode for the length of a block."""

import pytest
from torch import nn

from cmai_core.models.evaluation_mode import evaluation_mode


class Holder:
    """A model that is no module and has two."""

    def __init__(self, *parts):
        self.parts = parts

    def modules(self):
        return (module for part in self.parts for module in part.modules())


def test_modes_and_flags_are_restored_exactly_even_after_an_error():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    heads = nn.Linear(3, 3)
    net[1].train(False)
    net[1][0].train(True)
    net[1][1].bias.requires_grad_(False)
    modules = [*net.modules(), *heads.modules()]
    parameters = [*net.parameters(), *heads.parameters()]
    modes, flags = [m.training for m in modules], [p.requires_grad for p in parameters]
    with pytest.raises(KeyError), evaluation_mode(Holder(net, heads)):
        assert not any(m.training for m in modules) and not any(p.requires_grad for p in parameters)
        raise KeyError
    assert [m.training for m in modules] == modes and [p.requires_grad for p in parameters] == flags


def test_what_has_no_modules_has_no_mode():
    with evaluation_mode(object(), None):
        pass
