"""An attack as a job: progress reaches the snapshot, cancel returns the best so far, short calls share the model."""

import time

import torch

from cmai_core.attacks import Consistency, pgd
from cmai_core.jobs import JobQueue

OPTIONS = {"epsilon": 8 / 255, "step_size": 1 / 255}


def test_attack_in_the_queue_shares_its_model_with_a_nested_attack(kit):
    model = kit.conv_model().train()
    batch, other = kit.make_batch(model, 3, size=8), kit.make_batch(model, 2, size=8, seed=9)
    long, short = pgd(-Consistency(), steps=400, **OPTIONS), pgd(-Consistency(), steps=5, **OPTIONS)
    expected_long, expected_short = long(model, batch, seed=1), short(model, other, seed=2)
    with JobQueue() as queue:
        job = queue.submit(
            lambda progress, cancel: long(model, batch, seed=1, progress=progress, cancel=cancel, progress_interval=0)
        )
        end = time.monotonic() + 5
        while job.snapshot().progress is None and time.monotonic() < end:
            time.sleep(0.001)
        nested = queue.call(lambda: short(model, other, seed=2))
        assert job.snapshot().state == "running"
        job.wait(30)
        assert torch.equal(job.result().pixels, expected_long.pixels)
        assert torch.equal(nested.pixels, expected_short.pixels)
    assert all(m.training for m in model.modules()) and all(p.requires_grad for p in model.parameters())


def test_cancelled_attack_leaves_its_best_in_the_queue(kit):
    model = kit.conv_model()
    batch = kit.make_batch(model, 2, size=8)
    attack = pgd(-Consistency(), steps=100_000, **OPTIONS)
    with JobQueue() as queue:
        job = queue.submit(lambda progress, cancel: attack(model, batch, progress=progress, cancel=cancel))
        end = time.monotonic() + 5
        while (job.snapshot().progress is None or job.snapshot().progress.done < 5) and time.monotonic() < end:
            time.sleep(0.001)
        start = time.monotonic()
        job.cancel()
        snapshot = job.wait(5)
        assert snapshot.state == "cancelled" and time.monotonic() - start < 1
        result = job.result()
        assert result.cancelled and (result.objective > result.clean_objective).all()
