"""How long an attack takes is learned from those before it."""

from dataclasses import replace

from cmai_core.lab.estimate import CostBook
from cmai_core.lab.experiment import Experiment


def made(result, seconds, **options):
    return replace(result, experiment=replace(Experiment(caption="a"), **options), seconds=seconds)


def test_attacks_of_one_kind_tell_of_longer_ones(result):
    book = CostBook()
    assert book.seconds(Experiment()) is None
    book.note(made(result, 2.0, steps=20))
    assert book.seconds(Experiment(steps=20)) == 2.0 and book.seconds(Experiment(steps=40)) == 4.0
    assert book.seconds(Experiment(steps=5)) == 2.0  # nobody knows yet how much of it is fixed
    book.note(made(result, 3.0, steps=40))
    assert book.seconds(Experiment(steps=40)) == 3.0 and book.seconds(Experiment(steps=60)) == 4.0
    assert book.seconds(Experiment(recipe="apgd", objective="margin")) is None
    assert book.seconds(Experiment(b="")) is None  # other models


def test_a_cancelled_attack_tells_nothing(result):
    book = CostBook()
    first = replace(result.first_example, cancelled=True)
    book.note(replace(made(result, 0.1), examples={"A": first}))
    assert book.seconds(Experiment()) is None
